"""Facts of the CUDA kernels that need no GPU: a table of registers, stack (what is spilt), shared
memory, occupancy and the instructions of the inner loop, and the time that a layer takes at least.

    python -m benchmarks.cuda_static --arch 8.0,9.0
    python -m benchmarks.cuda_static --roofline resnet50

Needs nvcc, g++, and nvdisasm and cuobjdump, which are on PyPI (nvidia-cuda-nvdisasm,
nvidia-cuda-cuobjdump). Instructions are those of the innermost loop with the most multiply-adds.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from convkern._C import Problem
from convkern.bench import read_shapes
from convkern.testing import variant

ROOT = Path(__file__).parent.parent
FOLDERS = {"implicit_gemm": "gemm_float", "implicit_gemm_mma": "gemm_mma", "direct": "direct"}
SOURCES = [ROOT / "csrc" / "cuda" / name / f"{name}.cu" for name in FOLDERS.values()]
DEPTH, STAGES = 16, 3  # as in csrc/cuda/gemm_float/tiles.cuh and gemm/pipeline.cuh
MMA_ROW_BYTES, MMA_WARP_COLUMNS = 64, 32  # as in csrc/cuda/gemm_mma/tiles.cuh
ELEMENTS = {"BFloat16": "bf16", "Half": "f16", "float": "f32", "double": "f64"}
MULTIPLY_ADDS = ("FFMA", "DFMA", "HMMA")
TILE = re.compile(
    r"(?P<name>\w+)<.*?Tile<(?P<rows>\d+), (?P<columns>\d+), (?P<thread>\d+)>, "
    r"(?P<index>int|long), \(.*?Layout\)(?P<layout>\d), (?P<vector>\d)>"
)
MMA_TILE = re.compile(
    r"(?P<name>\w+)<.*?Tile<(?:\w+::)*(?P<element>\w+), (?P<rows>\d+), (?P<columns>\d+), "
    r"(?P<warp_rows>\d+)>, (?P<index>int|long), \(?(?:bool\))?(?P<aligned>\w+)>"
)
PLANES = re.compile(r"(?P<name>\w+_planes)<(?:\w+::)*(?P<element>\w+)>")
DIRECT_THREADS = 256  # kMostThreads in csrc/cuda/direct/blocking.h
# FLOP/s of float32 without tensor cores, and bytes/s of memory, from NVIDIA's data sheets (A100 SXM
# 80 GB, H100 SXM).
GPUS = {"A100": (19.5e12, 2.039e12), "H100": (67e12, 3.35e12)}


@dataclass(frozen=True)
class Compiled:
    """A kernel as compiled for an architecture."""

    arch: str
    name: str
    threads: int
    shared_bytes: int
    registers: int
    stack_bytes: int
    loop: Counter[str]  # instructions of the inner loop, with widths as their only modifiers


def in_cuda_wheels(path: str) -> list[str]:
    """Returns the files with that path in torch's CUDA wheels, or none if the wheels lack it."""
    site = Path(torch.__file__).parent.parent
    return sorted(str(found) for found in site.glob(f"nvidia/cu[0-9]*/{path}"))


def tool(name: str) -> str:
    """Returns the program with that name in torch's CUDA wheels, or else on PATH."""
    return (in_cuda_wheels(f"bin/{name}") or [name])[-1]


def output_of(*command: str, text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}:\n{done.stderr}")
    return done.stdout


def inner_loop(lines: list[str]) -> Counter[str]:
    """Counts the instructions of a loop, the range of a backward branch. Of the loops without an
    inner loop it is the one with the most multiply-adds."""
    labels = {m[1]: i for i, line in enumerate(lines) if (m := re.match(r"(\.L_x_\d+):", line))}
    loops = [
        (labels[m[1]], i)
        for i, line in enumerate(lines)
        if (m := re.search(r"\bBRA\b.*`\((\.L_x_\d+)\)", line)) and labels.get(m[1], i) < i
    ]
    innermost = [
        (a, b) for a, b in loops if not any(a <= c and d < b and (c, d) != (a, b) for c, d in loops)
    ]
    counts = [Counter(filter(None, map(opcode, lines[a:b]))) for a, b in innermost]
    return max(counts, key=multiply_adds, default=Counter())


def multiply_adds(loop: Counter[str]) -> int:
    return sum(loop[name] for name in MULTIPLY_ADDS)


def opcode(line: str) -> str | None:
    found = re.search(r"/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9.]*)", line)
    if found is None or "@!PT" in line:  # never executed
        return None
    name, *modifiers = found[1].split(".")
    return f"{name}.128" if name in ("LDS", "LDG", "STG") and "128" in modifiers else name


def functions(sass: str) -> Iterator[tuple[str, list[str]]]:
    for part in re.split(r"^\.text\.", sass, flags=re.MULTILINE)[1:]:
        name, *lines = part.splitlines()
        yield name.rstrip(":"), lines


@dataclass(frozen=True)
class Block:
    """The size of a kernel's blocks, which follows from its template parameters."""

    name: str
    threads: int
    shared_bytes: int


def block_of(plain: str) -> Block | None:
    """Returns the blocks of the kernel with that demangled name, or None if it has no tile."""
    if (tile := TILE.search(plain)) is not None:
        rows, columns, thread = (int(tile[k]) for k in ("rows", "columns", "thread"))
        nchw = tile["layout"] == "0"
        layout = "nchw" if nchw else f"nhwc by {tile['vector']}"
        # The stages of both operands. Rows have terms innermost where the tensor does.
        terms_innermost = (nchw, nchw) if tile["name"] == "sum_weights" else (not nchw, False)
        floats = [
            size * (DEPTH + 4 if terms else DEPTH)
            for size, terms in zip((rows, columns), terms_innermost, strict=True)
        ]
        threads, shared = rows * columns // (8 * thread), STAGES * 4 * sum(floats)
    elif (tile := MMA_TILE.search(plain)) is not None:
        rows, columns, warp_rows = (int(tile[k]) for k in ("rows", "columns", "warp_rows"))
        layout = ELEMENTS[tile["element"]].replace("f32", "tf32")
        layout += "" if tile["aligned"] in ("true", "1") else ", not aligned"
        threads = rows // warp_rows * (columns // MMA_WARP_COLUMNS) * 32
        shared = STAGES * MMA_ROW_BYTES * (rows + columns)
    elif (planes := PLANES.search(plain)) is not None:
        return Block(f"{planes['name']} {ELEMENTS[planes['element']]}", DIRECT_THREADS, 0)
    else:
        return None
    bits = "32" if tile["index"] == "int" else "64"
    return Block(f"{tile['name']} {rows}x{columns} {layout}, {bits}-bit", threads, shared)


def compiled(arch: str) -> Iterator[Compiled]:
    """Yields the tiled kernels for an architecture such as "9.0"."""
    with tempfile.TemporaryDirectory() as folder:
        for source in SOURCES:
            cubin = f"{folder}/{source.stem}.cubin"
            flags = ["-std=c++20", "-O3", f"-I{ROOT / 'csrc'}", f"-arch=sm_{arch.replace('.', '')}"]
            output_of("nvcc", *flags, "-cubin", "-o", cubin, str(source))
            usage = output_of(tool("cuobjdump"), "--dump-resource-usage", cubin)
            for name, lines in functions(output_of(tool("nvdisasm"), "-c", cubin)):
                block = block_of(output_of("c++filt", name).strip())
                if block is None:
                    continue
                used = re.search(re.escape(name) + r":\s+REG:(\d+) STACK:(\d+)", usage)
                assert used is not None
                yield Compiled(
                    arch,
                    block.name,
                    block.threads,
                    block.shared_bytes,
                    int(used[1]),
                    int(used[2]),
                    inner_loop(lines),
                )


def occupancy(kernels: list[Compiled]) -> list[tuple[int, int]]:
    """Returns for each kernel the resident blocks, and the percentage of a multiprocessor's
    threads."""
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/occupancy"
        source = str(Path(__file__).with_name("occupancy.cpp"))
        includes = [f"-I{folder}" for folder in in_cuda_wheels("include")]
        output_of("g++", "-std=c++17", *includes, source, "-o", program)
        lines = "".join(
            f"{k.arch.replace('.', '')} {k.registers} {k.threads} {k.shared_bytes}\n"
            for k in kernels
        )
        printed = output_of(program, text=lines)
    pairs = [tuple(map(int, line.split())) for line in printed.splitlines()]
    return [(blocks, percent) for blocks, percent in pairs]


def print_kernels(archs: list[str]) -> None:
    columns = [
        "kernel", "arch", "threads", "registers", "stack bytes", "shared KiB",
        "blocks a multiprocessor", "occupancy", "FFMA, DFMA or HMMA in the inner loop",
        "loads of 128 bits in it", "copies in it",
    ]  # fmt: skip
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    kernels = [kernel for arch in archs for kernel in compiled(arch)]
    for kernel, (blocks, percent) in zip(kernels, occupancy(kernels), strict=True):
        total = sum(kernel.loop.values())
        # The blocks of direct depend on the layer, and so does the number of resident blocks.
        by_layer = kernel.shared_bytes == 0
        shared = "by layer" if by_layer else f"{kernel.shared_bytes / 1024:.0f}"
        resident = "by layer | by layer" if by_layer else f"{blocks} | {percent}%"
        wide = kernel.loop["LDS.128"] + kernel.loop["LDSM"]
        products, loads = multiply_adds(kernel.loop), wide + kernel.loop["LDS"]
        print(
            f"| {kernel.name} | {kernel.arch} | {kernel.threads} | {kernel.registers} "
            f"| {kernel.stack_bytes} | {shared} | {resident} "
            f"| {products} of {total}, {products / max(total, 1):.0%} "
            f"| {wide} of {loads} | {kernel.loop['LDGSTS']} |"
        )


def print_roofline(shapes: str) -> None:
    """Prints the least time of each layer's passes, by its products or by its bytes."""
    print("| layer, pass | GFLOP | MB |" + "".join(f" {gpu}, us at least |" for gpu in GPUS))
    print("|---|---|---|" + "---|" * len(GPUS))
    for text in read_shapes(shapes):
        label = text.partition("#")[2]
        for pass_ in ("fwd", "gx", "gw"):
            problem = Problem(variant(text, pass_=pass_))
            cells = ""
            for peak, bandwidth in GPUS.values():
                products, bytes_ = problem.flops / peak, problem.min_bytes / bandwidth
                bound = "FMA" if products > bytes_ else "memory"
                cells += f" {max(products, bytes_) * 1e6:.1f} ({bound}) |"
            print(
                f"| {label}, {pass_} | {problem.flops / 1e9:.2f} | {problem.min_bytes / 1e6:.1f} |"
                + cells
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--arch", default="8.0,8.6,8.9,9.0,10.0", help="separated by commas")
    parser.add_argument("--roofline", metavar="SHAPES", help="this table instead, of these layers")
    arguments = parser.parse_args()
    if arguments.roofline:
        print_roofline(arguments.roofline)
    else:
        print_kernels(arguments.arch.split(","))


if __name__ == "__main__":
    main()
