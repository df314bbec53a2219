# The two commands of the README, `make train` and `make test`, do all the set-up on a fresh
# machine: virtual environment, dependencies, build, data.
PYTHON ?= python3
VENV ?= .venv
EPOCHS ?= 5
SEEDS ?= 3
OUT ?= runs/compare
FUZZ_EXAMPLES ?= 3000
FUZZ_SEED ?= 0
CERTIFY_PROBLEMS ?= 1000000
CERTIFY_SEED ?= 0

BIN := $(VENV)/bin
CXX_FILES := '*.h' '*.cpp' '*.cu' '*.cuh'
NATIVE := setup.py tools/native_build.py pyproject.toml $(shell find csrc -type f)

.PHONY: train test test-slow test-all test-exhaustive check format sanitize fuzz certify bench wheel docs build clean

train: build  ## the study: four models on Fashion-MNIST, and a report; again, it goes on
	$(BIN)/python -m convkern compare --seeds $(SEEDS) --epochs $(EPOCHS) --out $(OUT) --resume

# A worker of pytest for each processor. Each takes its share of the tests in order, so that those of
# a file mostly stay together, and then some of those that others have not begun.
WORKERS ?= auto

PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test: build  ## the tests, but for those that take minutes each
	$(PYTEST)

test-slow: build  ## sanitizers and what else takes minutes
	$(PYTEST) --run-slow -m slow

test-all: test-slow test  ## what a change must pass

test-exhaustive: build  ## all tests, for hours: also what sanitize and certify run
	$(PYTEST) --run-slow --run-exhaustive

check: build  ## formatting, lint, types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $$(git ls-files $(CXX_FILES))

format: build  ## format in place
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $$(git ls-files $(CXX_FILES))

sanitize: build  ## the CPU kernels, and the CUDA kernels in the simulator, under ASan, UBSan, TSan
	$(BIN)/python -m pytest --run-slow --run-exhaustive tests/kernels/test_core_sanitizers.py \
	  tests/cuda/test_cuda_faults.py tests/kernels/test_guard_pages.py

fuzz: build  ## random problems against float64; e.g. FUZZ_EXAMPLES=20000 FUZZ_SEED=7
	CONVKERN_FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest tests/kernels/test_fuzz.py \
	  tests/kernels/test_guard_pages.py -k "test_fuzz or random_problems" \
	  --hypothesis-seed=$(FUZZ_SEED)
	$(BIN)/python -m pytest --run-slow --run-exhaustive tests/kernels/test_core_sanitizers.py -k "plans or planned"

certify: build  ## the CPU kernels on integers modulo a prime, against the plain sum, exactly
	CONVKERN_CERTIFY_PROBLEMS=$(CERTIFY_PROBLEMS) CONVKERN_CERTIFY_SEED=$(CERTIFY_SEED) \
	  $(BIN)/python -m pytest --run-exhaustive -s tests/kernels/test_certify.py

bench: build  ## time the Fashion-MNIST layers against torch
	$(BIN)/python -m pytest benchmarks/ --benchmark-only

wheel: build  ## a source distribution, and a wheel for every supported torch, in dist/
	$(BIN)/python tools/release.py build

docs: build  ## the documentation, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

build: $(VENV)/built  ## the extension, installed in place

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet torch==2.14.1 torchvision==0.29.1 setuptools ninja
	touch $@

$(VENV)/built: $(VENV)/installed $(NATIVE)
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[dev]'
	touch $@

clean:  ## all that was built, but not the virtual environment
	rm -rf build site convkern.egg-info convkern/_native $(VENV)/built
