"""Data sets as uint8 images: named ones, `.npz` files, folders of images, and shards.

    name                 image        train   validation    test   labels   from
    digits             8 x 8 x 1      1,151          287     359      yes   scikit-learn
    mnist            28 x 28 x 1     50,000       10,000  10,000      yes   keras.datasets
    fashion_mnist    28 x 28 x 1     50,000       10,000  10,000      yes   keras.datasets
    cifar10          32 x 32 x 3     40,000       10,000  10,000      yes   keras.datasets
    cifar10_jpeg     32 x 32 x 3     40,000       10,000  10,000      yes   a JPEG copy, lossy
    clothing64       64 x 64 x 3      2,728          681     372      yes   photos, CC0 1.0
    noto_emoji64     64 x 64 x 3      2,628          657     356      yes   Noto Color Emoji
    binarized_mnist  28 x 28 x 1     50,000       10,000  10,000       no   Larochelle and Murray

    sources   from a name or a path to images: `arrays`, `load`, `open_split`
    named     the table above, and where each set is downloaded from
    pairs, folders, shards  the three formats on disk (.npz in `pairs`); `prepare` writes shards
    images    one image file: what its header holds, and its pixels
    splits    a split as training reads it, in a new order for each epoch
    report    what a set holds, before anything trains on it: `check`

The order of the images is the file's, spread over the classes if it goes class by class, or that
of a hash of the files' names. Only training shuffles, with a seed.
"""

from tfgen.data.named import licence, names
from tfgen.data.pairs import SPLITS, DataNotFoundError, digest
from tfgen.data.report import Report, check
from tfgen.data.shards import Shards
from tfgen.data.sources import Data, Source, arrays, load, of_recipe, open_split
from tfgen.data.splits import Arrays, Files, Split, head
from tfgen.data.writing import prepare

__all__ = [
    "SPLITS",
    "Arrays",
    "Data",
    "DataNotFoundError",
    "Files",
    "Report",
    "Shards",
    "Source",
    "Split",
    "arrays",
    "check",
    "digest",
    "head",
    "licence",
    "load",
    "names",
    "of_recipe",
    "open_split",
    "prepare",
]
