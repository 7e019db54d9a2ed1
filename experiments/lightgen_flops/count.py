"""FLOPs of LightGen at 512 px: as published, with exact savings, LazyMAR, GtR, and both.

    python experiments/lightgen_flops/count.py [output_dir=FOLDER] [OVERRIDE …]

No weights are needed, and nothing is sampled. It writes ``table.csv`` and ``table.md``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from mar_accel.config.compose import compose_settings
from mar_accel.inference.build import build_sampling
from mar_accel.profiling.flops import FlopCount, count_flops
from mar_accel.utils.csv_files import write_csv
from mar_accel.utils.markdown import table

PARTS = ("condition", "encoder", "decoder", "head")
SIZES = ("base", "large", "huge")
# Name of a row: sampler and cache. The first row is the baseline of the ratios.
ROWS = {
    "as published, K = 32": ("lightgen_32", "as_published"),
    "exact savings, K = 32": ("lightgen_32", "none"),
    "LazyMAR, K = 32": ("lightgen_32", "lazymar_text"),
    "LazyMAR with condition cache, K = 32": ("lightgen_32", "lazymar"),
    "GtR, K = 16": ("gtr_lightgen", "none"),
    "GtR and LazyMAR, K = 16": ("gtr_lightgen", "lazymar_text"),
}


def count(size: str, sampler: str, cache: str, others: Sequence[str] = ()) -> FlopCount:
    """FLOPs of one image of a published size."""
    overrides = [f"model=lightgen_{size}", "dataset=prompts", "dataset.prompts=[a]"]
    settings = compose_settings("generate", [*overrides, f"sampler={sampler}", f"cache={cache}", *others])
    architecture, built, policy, _ = build_sampling(settings)
    return count_flops(architecture, built, policy)


def main(words: Sequence[str]) -> None:
    """Count every row for every size, and write ``table.csv`` and ``table.md``."""
    folder = Path("outputs/experiments/lightgen_flops")
    others = [word for word in words if not word.startswith("output_dir=")]
    for word in words:
        if word.startswith("output_dir="):
            folder = Path(word.partition("=")[2])
    folder.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, object]] = []
    for size in SIZES:
        baseline = None
        for name, (sampler, cache) in ROWS.items():
            flops = count(size, sampler, cache, others)
            baseline = baseline or flops.total
            tflops = round(flops.total / 1e12, 2)
            ratio = round(baseline / flops.total, 2)
            cells = {"sampler": sampler, "cache": cache, "tflops": tflops, "ratio": ratio}
            records.append({"size": size, "row": name, **cells})
            print(f"{size}, {name}: {tflops:.2f} T, {ratio:.2f}x", flush=True)
    write_csv(records, folder / "table.csv")
    by_size = {size: [r for r in records if r["size"] == size] for size in SIZES}
    rows = [
        [name, *(f"{by_size[size][i]['tflops']:.2f} ({by_size[size][i]['ratio']:.2f}x)" for size in SIZES)]
        for i, name in enumerate(ROWS)
    ]
    (folder / "table.md").write_text(table(["TFLOPs per image", *SIZES], rows))


if __name__ == "__main__":
    main(sys.argv[1:])
