"""The emoji sheets, as their packages have them."""

import json
from pathlib import Path

import pytest
from PIL import Image

from hypergrad.errors import InvalidInputError
from hypergrad.vision.data import read_dataset


def emoji(tmp_path: Path, style: str, entries: list[dict], cells: int = 3) -> None:
    """Cells of the shade 10 x + 30 y, transparent in their upper half, with a red border that must not be read."""
    sheet = Image.new("RGBA", (34 * cells, 34 * cells), (255, 0, 0, 255))
    for x in range(cells):
        for y in range(cells):
            shade = 10 * x + 30 * y
            sheet.paste((0, 0, 0, 0), (34 * x + 1, 34 * y + 1, 34 * x + 33, 34 * y + 17))
            sheet.paste((shade, shade, shade, 255), (34 * x + 1, 34 * y + 17, 34 * x + 33, 34 * y + 33))
    package = tmp_path / f"emoji-datasource-{style}"
    (package / "img" / style / "sheets").mkdir(parents=True, exist_ok=True)
    sheet.save(package / "img" / style / "sheets" / "32.png")
    (package / "emoji.json").write_text(json.dumps(entries))


def entry(unified: str, category: str, x: int, y: int, **more: object) -> dict:
    has = {"has_img_google": True, "has_img_twitter": True}
    return {"unified": unified, "category": category, "sheet_x": x, "sheet_y": y, **has, **more}


VARIANT = {"1F3FB": {"sheet_x": 2, "sheet_y": 0, "has_img_google": True, "has_img_twitter": True}}
EMOJI = [
    entry("1", "People & Body", 1, 0, skin_variations=VARIANT),
    entry("2", "People & Body", 0, 1, has_img_google=False),
    entry("3", "Flags", 1, 1),
    entry("4", "Flags", 2, 2, has_img_twitter=False),
    entry("5", "Flags", 0, 0),
    entry("6", "Component", 0, 2),
]


def test_emoji(tmp_path: Path) -> None:
    emoji(tmp_path, "google", EMOJI)
    emoji(tmp_path, "twitter", EMOJI)
    data = read_dataset("emoji", tmp_path)
    assert data.classes == ("Flags", "People & Body") and data.train.images.shape == (5, 3, 32, 32)
    assert data.train.images[:, :, :16].unique().tolist() == [255]  # transparent: white; and nothing of the border
    lower = {part: images.images[:, :, 16:] for part, images in data.parts().items()}
    assert all(x.flatten(1).amin(1).equal(x.flatten(1).amax(1)) for x in lower.values())
    names = [data.classes[t] for t in data.train.targets]
    assert list(zip(lower["train"][:, 0, 0, 0].tolist(), names, strict=True)) == [
        (10, "People & Body"), (20, "People & Body"), (40, "Flags"), (80, "Flags"), (0, "Flags"),
    ]  # fmt: skip
    val, test = (set(lower[part][:, 0, 0, 0].tolist()) for part in ("val", "test"))
    assert val | test == {10, 20, 30, 40, 0} and not val & test
    assert ({10, 20} <= val) or ({10, 20} <= test)  # an emoji and its variant
    assert len({40, 0} & val) == 1  # half of each category
    assert read_dataset("emoji", tmp_path, image_size=16).test.images.shape[2:] == (16, 16)


def test_emoji_faults(tmp_path: Path) -> None:
    def fails(message: str) -> None:
        with pytest.raises(InvalidInputError, match=message):
            read_dataset("emoji", tmp_path)

    emoji(tmp_path, "google", EMOJI)
    fails("Expected emoji-datasource-twitter/emoji.json in .*npm packages")
    emoji(tmp_path, "twitter", EMOJI, cells=2)
    fails(r"twitter/emoji.json names column 2, row 0; .*32.png holds 2 x 2 pictures")
    emoji(tmp_path, "twitter", [entry("1", "Toys", 0, 0), *EMOJI])
    fails("only Twitter's emoji have the category 'Toys'")
    emoji(tmp_path, "twitter", [{"unified": "1"}])
    fails("twitter/emoji.json is not the list of emoji .*category")
    emoji(tmp_path, "twitter", [])
    fails("names no picture")
    emoji(tmp_path, "twitter", EMOJI)
    sheet = tmp_path / "emoji-datasource-twitter/img/twitter/sheets/32.png"
    sheet.write_bytes(sheet.read_bytes()[:100])
    fails(r"32.png cannot be decoded .* cut short")
