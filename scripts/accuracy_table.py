"""Print the accuracy tables of the README from the results of measure_accuracy.sh: accuracy_table.py RESULTS_FOLDER."""

import json
import sys
from pathlib import Path


def main(folder: Path) -> None:
    """One Markdown table: a row for each region and target, one support alone and all supports together."""
    print("| region | target | IoU, one shot | AWD mm | sd over supports | IoU, all shots | AWD mm |")
    print("|---|---|---|---|---|---|---|")
    for region in ("han", "thorax", "abdomen"):
        one, several = (json.loads((folder / f"{region}-{shots}.json").read_text()) for shots in ("one", "all"))
        for target, single in one["targets"].items():
            together = several["targets"][target]
            spread = single["iou_sd_supports"]
            print(
                f"| {region} | {target} | {single['iou']:.2f} | {single['awd_mm']:.1f} | {spread:.2f} "
                f"| {together['iou']:.2f} | {together['awd_mm']:.1f} |"
            )
        mean, fused = one["mean"], several["mean"]
        print(
            f"| {region} | **mean** of {len(mean['targets'])} | **{mean['iou']:.2f}** | **{mean['awd_mm']:.1f}** | "
            f"| **{fused['iou']:.2f}** | **{fused['awd_mm']:.1f}** |"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
