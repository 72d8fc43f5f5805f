"""Registers, spills, shared memory and resident blocks of every CUDA kernel, as ptxas reports them. Needs no GPU.

    python bench/gpu_registers.py                  show what differs from bench/results/gpu_registers.txt
    python bench/gpu_registers.py --write          write that file
    python bench/gpu_registers.py --sources linear conv   some of the files alone, printed only

Blocks a multiprocessor are arithmetic on registers, threads and shared memory; no time is measured or implied.
"""

from __future__ import annotations

import argparse
import difflib
import math
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "bench" / "results" / "gpu_registers.txt"
EXACT = ("langevin", "privacy")  # families compiled without fused multiply-add, as cmake/cuda.cmake has it


@dataclass(frozen=True)
class Multiprocessor:
    """What one multiprocessor has to share out, from the CUDA programming guide's table of compute capabilities."""

    registers: int = 65536
    warps: int = 64
    blocks: int = 32
    shared: int = 0  # bytes
    reserved: int = 1024  # bytes of shared memory the system takes from every block


MULTIPROCESSORS = {
    "80": Multiprocessor(shared=164 * 1024),
    "90": Multiprocessor(shared=228 * 1024),
}

# Bytes of dynamic shared memory that launches ask for, where they may: kernel name -> (bytes, when).
DYNAMIC: dict[str, list[tuple[str, int, str]]] = {
    "square_tiles": [
        ("BlockTile<float, 128, 8, 128, 8>", 64 * 1024, "second sums"),
        ("BlockTile<float, 128, 8, 64, 4>", 32 * 1024, "second sums"),
        ("TensorTile", 64 * 1024, "second sums"),
    ],
    "standard_rows": [("", 47 * 1024, "largest tile")],
    "row_statistics": [("", 47 * 1024, "longest row kept")],
    "quote_kernel": [("", 48 * 1024, "largest record")],
    "jacobi_kernel": [("", 4 * 1024, "rank 256"), ("", 48 * 1024, "largest")],
    "pair_kernel": [("", 48 * 1024, "largest record")],
    "reduced_kernel": [("", 48 * 1024, "largest record")],
}


@dataclass
class Kernel:
    """One line of the table."""

    name: str
    threads: int  # of a block, as its launch bounds say; 0 where it has none
    registers: int = 0
    spill_stores: int = 0
    spill_loads: int = 0
    shared: int = 0

    def resident(self, machine: Multiprocessor, dynamic: int = 0) -> int:
        """Return how many blocks one multiprocessor holds at once."""
        if self.threads == 0:
            return 0
        warps = -(-self.threads // 32)
        a_warp = -(-max(self.registers, 1) * 32 // 256) * 256
        by_registers = machine.registers // a_warp // 4 * 4 // warps
        bytes_each = -(-(self.shared + dynamic + machine.reserved) // 128) * 128
        return min(machine.blocks, machine.warps // warps, by_registers, machine.shared // bytes_each)


def tool(name: str) -> str:
    """Return the path of a tool of the CUDA toolkit, or stop."""
    found = shutil.which(name) or shutil.which(name, path="/usr/local/cuda/bin")
    if found is None:
        sys.exit(f"{name} was not found: this needs a CUDA toolkit")
    return found


def plain(name: str) -> str:
    """Return a demangled kernel name without what every name has."""
    families = ("grad_norms::device", "residual", "ridge", "langevin", "privacy")
    for noise in ("(anonymous namespace)", "expunge", *families):
        name = name.replace(f"{noise}::", "")
    name = re.sub(r"_GLOBAL__N__\w+::", "", name)
    depth, out = 0, ""
    for character in name.removeprefix("void "):
        depth += (character == "<") - (character == ">")
        if character == "(" and depth == 0:
            break
        out += character
    return re.sub(r"\(\w+\)(\d+)", r"\1", out).replace(" >", ">").strip()


def demangled(names: list[str]) -> dict[str, str]:
    """Return the readable names of mangled ones."""
    run = subprocess.run([tool("c++filt")], input="\n".join(names), capture_output=True, text=True, check=True)
    return dict(zip(names, map(plain, run.stdout.splitlines()), strict=True))


def compiled(source: Path, capability: str, work: Path) -> list[Kernel]:
    """Return the kernels of a source file for one compute capability."""
    ptx, cubin = work / f"{source.stem}.ptx", work / f"{source.stem}.cubin"
    exact = ["--fmad=false"] if source.parent.name in EXACT else []
    subprocess.run(
        [tool("nvcc"), "-std=c++17", "-O3", f"-arch=compute_{capability}", "-I", str(ROOT / "csrc"), *exact, "-ptx",
         "-o", str(ptx), str(source)],
        check=True,
    )  # fmt: skip
    said = subprocess.run(
        [tool("ptxas"), "-v", f"-arch=sm_{capability}", "-o", str(cubin),
         str(ptx)],
        check=True, capture_output=True, text=True,
    ).stderr  # fmt: skip
    threads = {}
    for block in re.split(r"(?=^\s*(?:\.visible |\.weak )?\.entry )", ptx.read_text(), flags=re.MULTILINE)[1:]:
        name = re.search(r"\.entry (\S+?)\(", block)
        most = re.search(r"\.maxntid (\d+)(?:, (\d+))?(?:, (\d+))?", block)
        if name:
            threads[name[1]] = math.prod(int(count or 1) for count in most.groups()) if most else 0
    names = demangled(list(threads))
    kernels = []
    for part in re.split(r"Compiling entry function '", said)[1:]:
        mangled = part.partition("'")[0]
        kernel = Kernel(names[mangled], threads[mangled])
        if used := re.search(r"Used (\d+) registers", part):
            kernel.registers = int(used[1])
        if spilled := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", part):
            kernel.spill_stores, kernel.spill_loads = int(spilled[1]), int(spilled[2])
        if shared := re.search(r"(\d+) bytes smem", part):
            kernel.shared = int(shared[1])
        kernels.append(kernel)
    return sorted(kernels, key=lambda kernel: kernel.name)


def lines_of(source: Path, work: Path) -> list[str]:
    """Return the table's lines for one source file."""
    found = {capability: {k.name: k for k in compiled(source, capability, work)} for capability in MULTIPROCESSORS}
    lines = [f"{source.parent.name}/{source.name}"]
    for name in sorted(set().union(*found.values())):
        launches = [(0, "")]
        for pattern, size, when in DYNAMIC.get(re.split(r"[<(]", name)[0], []):
            if pattern in name:
                launches.append((size, when))
        for dynamic, when in launches:
            cells = []
            for capability, machine in MULTIPROCESSORS.items():
                k = found[capability].get(name)
                if k is None:
                    cells.append("-".rjust(27))
                    continue
                cells.append(
                    f"{k.registers:4d} {k.spill_stores:5d}/{k.spill_loads:<5d} {k.shared + dynamic:6d} "
                    f"{k.resident(machine, dynamic):3d}"
                )
            threads = next(f[name].threads for f in found.values() if name in f)
            lines.append(f"  {threads:4d} | {' | '.join(cells)} | {name}{f' ({when})' if when else ''}")
    return lines


def table(sources: list[Path]) -> str:
    """Return the whole table."""
    said = subprocess.run([tool("ptxas"), "--version"], capture_output=True, text=True, check=True).stdout
    release = said.strip().splitlines()[-1 if "release" not in said else 3].strip()
    head = [
        "Registers a thread, bytes of spill stores/loads, bytes of shared memory a block and resident blocks a",
        "multiprocessor, for compute capability 8.0 and 9.0; threads a block first (0: no launch bounds).",
        f"Said by ptxas, {release}: nothing was run.",
        "",
        f"  thr. | {' | '.join(f'{c[0]}.{c[1]}  spills    shared blk' for c in MULTIPROCESSORS)} | kernel",
    ]
    with tempfile.TemporaryDirectory() as work:
        body = [line for source in sources for line in lines_of(source, Path(work))]
    return "\n".join(head + body) + "\n"


def main() -> int:
    """Print the table; compare it or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--sources", nargs="*", default=[], help="stems of the files to look at")
    given = parser.parse_args()
    sources = sorted((ROOT / "csrc").glob("*/*.cu"))
    if given.sources:
        print(table([source for source in sources if source.stem in given.sources]), end="")
        return 0
    text = table(sources)
    if given.write:
        print(text, end="")
        RESULT.write_text(text)
        return 0
    before = RESULT.read_text() if RESULT.exists() else ""
    changes = list(difflib.unified_diff(before.splitlines(), text.splitlines(), "committed", "now", lineterm="", n=0))
    print("\n".join(changes) if changes else "every kernel is as bench/results/gpu_registers.txt has it")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
