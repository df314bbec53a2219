# The two commands of the README, `make train` and `make test`, do all the set-up on a fresh
# machine: virtual environment, dependencies, build, data.
PYTHON ?= python3
VENV ?= .venv
EPOCHS ?= 5
SEEDS ?= 3
OUT ?= runs/compare
FUZZ_EXAMPLES ?= 3000
FUZZ_SEED ?= 0

BIN := $(VENV)/bin
CXX_FILES := '*.h' '*.cpp' '*.cu' '*.cuh'
NATIVE := setup.py pyproject.toml $(shell find csrc -type f)

.PHONY: train test check format sanitize fuzz bench docs build clean

train: build  ## the study: four models on Fashion-MNIST, and a report; again, it goes on
	$(BIN)/python -m convkern compare --seeds $(SEEDS) --epochs $(EPOCHS) --out $(OUT) --resume

test: build  ## all tests but the slow ones
	$(BIN)/python -m pytest

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
	$(BIN)/python -m pytest --run-slow tests/test_core_sanitizers.py tests/test_cuda_faults.py

fuzz: build  ## random problems against float64; e.g. FUZZ_EXAMPLES=20000 FUZZ_SEED=7
	CONVKERN_FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest tests/test_fuzz.py \
	  --hypothesis-seed=$(FUZZ_SEED)
	$(BIN)/python -m pytest --run-slow tests/test_core_sanitizers.py -k "plans or planned"

bench: build  ## time the Fashion-MNIST layers against torch
	$(BIN)/python -m pytest benchmarks/ --benchmark-only

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
	rm -rf build site convkern.egg-info convkern/_C*.so $(VENV)/built
