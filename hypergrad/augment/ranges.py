"""Named ranges of the operations' amounts: data, by range and operation; what is not named keeps its own.

Each entry replaces fields of :class:`~hypergrad.augment.Operation`. The published ranges count in 10, 30 or 31 bins;
bin i of n is magnitude ``i / (n - 1)``. Two departures, in all of them: solarize's threshold falls from 256 to 0 (not
from 255), so that magnitude 0 changes nothing, white included; and operations are bilinear about the image's centre.

Sources: AutoAugment (Cubuk et al., CVPR 2019, table 6, in parts of the 331 pixels that it was made for), RandAugment
(Cubuk et al., NeurIPS 2020; its published code has the same table), TrivialAugment (Müller and Hutter, ICCV 2021,
table 8, "wide").
"""

from typing import Any

from hypergrad.augment import affine, pillow_operations

# Without a strength: at any magnitude they are applied in full.
_FULL: dict[str, Any] = {"identity": 1, "strongest": 1, "gradient": "none"}
_AUTOAUGMENT: dict[str, dict[str, Any]] = {
    "TranslateX": {"strongest": 150 / 331},
    "TranslateY": {"strongest": 150 / 331},
    "Invert": _FULL,
    "AutoContrast": _FULL,
    "Equalize": _FULL,
}
_WIDE: dict[str, dict[str, Any]] = {
    "ShearX": {"strongest": 0.99},
    "ShearY": {"strongest": 0.99},
    "TranslateX": {
        "unit": "pixels",
        "strongest": 32,
        "function": affine.translate_x_pixels,
        "pillow": pillow_operations.translate_x_pixels,
    },
    "TranslateY": {
        "unit": "pixels",
        "strongest": 32,
        "function": affine.translate_y_pixels,
        "pillow": pillow_operations.translate_y_pixels,
    },
    "Rotate": {"strongest": 135},
    "Color": {"strongest": 1.99},
    "Contrast": {"strongest": 1.99},
    "Brightness": {"strongest": 1.99},
    "Sharpness": {"strongest": 1.99},
    "Posterize": {"strongest": 2},
    "Invert": _FULL,
    "AutoContrast": _FULL,
    "Equalize": _FULL,
}

#: Range to operation to fields of its record. "madao" is the table itself.
RANGES: dict[str, dict[str, dict[str, Any]]] = {
    "madao": {},
    "autoaugment": _AUTOAUGMENT,
    "randaugment": _AUTOAUGMENT,
    "trivialaugment-wide": _WIDE,
}
