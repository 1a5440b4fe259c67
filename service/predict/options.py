"""The options of `densepose predict`; knows nothing of what they lead to."""

import argparse
from pathlib import Path

from service.whole_number import positive

KEY_VARIABLE = "DENSEPOSE_API_KEY"
NAMINGS = ("plain", "viton-hd", "dresscode", "dp1", "dump", "dump-pickle", "dump-plain")

# The contract's own parameters, under their names there.
PARAMETERS = (
    ("model", "ID", "by default the server's or the settings' default model"),
    ("render", "PRESET", "draw what a tool wants: viton, segm, iuv-dp1, labels-npy, ..."),
    ("outputs", "LIST", "maps: iuv, labels, mask, ...; none for boxes alone"),
    ("layout", "LAYOUT", "maps of each instance (default), or of the whole image"),
    ("min_score", "0..1", "instances below are left out (default: 0.5, or as the data set has it)"),
    ("max_instances", "1..100", "the best are kept (default: 20)"),
    ("short_side", "PIXELS", "resize before the network"),
    ("box_expand", "SHARE", "by how much boxes grow"),
    ("mesh", "NAME", "CSE: match against this mesh of the model"),
    ("parts", "LIST", "measure parts: 24, 14, sides, limbs"),
    ("palette", "NAME", "of the render"),
    ("alpha", "0..1", "of the render"),
    ("background", "NAME", "of the render: photo, grey, black, palette, transparent, #rrggbb"),
    ("paint", "ORDER", "later-on-top or best-on-top"),
    ("people", "WHO", "in the render: all, best, largest, or an index"),
    ("size", "WxH", "of the render"),
)

DESCRIPTION = """\
Describe images, in order, and keep what is found in files. A folder is searched to its depths; its
tree is kept below --out. Run the same command again to go on after an interruption: images whose
results are there are not looked at again. A bad image is reported at the end and stops nothing.
Exit status: 0 all is there, 1 something failed, 2 wrong usage, 130 interrupted."""


def add_predict_options(parser: argparse.ArgumentParser) -> None:
    """Give the parser of `densepose predict` its options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="a file, a folder, a pattern in quotes, or - for names on standard input, one in "
        "each line or each ended by a NUL",
    )
    for name, metavar, described in PARAMETERS:
        parser.add_argument(f"--{name.replace('_', '-')}", metavar=metavar, help=described)
    parser.add_argument("--atlas", type=Path, metavar="FILE", help="a picture for render=texture")
    parser.add_argument(
        "--out", type=Path, default=Path("densepose"), metavar="DIR", help="(default: densepose)"
    )
    parser.add_argument(
        "--format",
        choices=("picture", "files", "npz"),
        help="of each image: a picture (or the render's file), by default; a folder of maps with "
        "a result.json, by default with --outputs; or all of it in one file of arrays",
    )
    parser.add_argument(
        "--naming",
        choices=NAMINGS,
        default="plain",
        help="what a data set has, where it has it: image-densepose/X.jpg; dense/X_5.png and "
        "X_5_uv.npz; X_IUV.png and X_INDS.png; what detectron2 dumps, X.pkl, for torch.load, "
        "for pickle.load, or as plain tensors (default: plain)",
    )
    parser.add_argument(
        "--for",
        dest="tool",
        metavar="TOOL",
        help="the render that this tool reads, with the min_score, max_instances and people that "
        "it uses itself: HR-VITON, CatVTON, vid2densepose, DreamPose, ...",
    )
    parser.add_argument("--root", metavar="DIR", help="places are relative to it")
    parser.add_argument("--overwrite", action="store_true", help="describe what is there once more")
    parser.add_argument("--server", metavar="URL", help="ask this one, or a load balancer")
    parser.add_argument(
        "--key-file", type=Path, metavar="FILE", help=f"its API key (default: ${KEY_VARIABLE})"
    )
    parser.add_argument(
        "--concurrency", type=positive, default=16, help="requests at a time (default: 16)"
    )
    # Of what only shows when the options are held against each other.
    parser.set_defaults(usage=parser.error)
