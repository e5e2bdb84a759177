"""The sections of a configuration: which images, which network, and the augmentation that every method has."""

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

Value = bool | int | float | str


class Section(BaseModel):
    """Unknown keys are refused; a configuration does not change once it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class DataConfig(Section):
    """Which images, and which of them for what."""

    name: str = Field("digits", description="Data set: a registered name (`hypergrad datasets list`).")
    root: Path | None = Field(None, description="Folder of its files; none: where the set is usually installed.")
    image_size: int | None = Field(
        None, ge=8, le=1024, description="Pixels a side that files are decoded to; none: the set's own default."
    )
    pad_to: int | None = Field(
        None, ge=8, le=1024, description="Pixels a side that smaller images are padded to with black; none: no padding."
    )
    channels: Literal[1, 3] | None = Field(None, description="3 repeats grey images; none: as they are.")
    train_size: int | None = Field(
        None, ge=2, description="Images that train, a stratified subset of what validation leaves; none: all."
    )
    validation: float | int = Field(
        0.1,
        gt=0,
        description="Training images held out for the policy and for choices: a share below 1, else a count.",
    )
    test_size: int | None = Field(None, ge=1, description="Images that test, a stratified subset; none: all.")
    shift_degrees: float = Field(
        0.0,
        ge=0,
        le=180,
        description="Validation and test images are turned by up to this angle: a shift that a policy can find.",
    )
    workers: int = Field(2, ge=0, description="Processes that decode image files; 0: none but this one.")
    options: dict[str, Value] = Field(
        default_factory=dict, description="Arguments of the data set's reader, such as on_error=skip for `folder`."
    )


class ModelConfig(Section):
    """Which network."""

    name: str = Field("small-cnn", description="A registered network, or package.module:Name.")
    options: dict[str, Value] = Field(default_factory=dict, description="Arguments of the network.")
    weights: Path | None = Field(None, description="Pretrained weights to start from (.safetensors, .pth).")

    @field_validator("options")
    @classmethod
    def _of_the_network(cls, options: dict[str, Value]) -> dict[str, Value]:
        known = sorted({"num_classes", "channels", "image_size"} & set(options))
        if known:
            raise ValueError(f"{known} follow from the data; leave them out (data.channels, data.image_size)")
        return options


class StandardConfig(Section):
    """The standard augmentation, which every method has."""

    crop: int | None = Field(
        None, ge=0, description="Pixels of padding before the random crop; 0: no crop; none: an eighth of the side."
    )
    fill: Literal["zeros", "reflect"] = Field("zeros", description="What the padding holds.")
    flip: bool | None = Field(None, description="Mirror half of the images; none: where that keeps the class.")
    resized_crop: int | None = Field(
        None,
        ge=8,
        description="Pixels a side of random resized crops (in place of `crop`) and of the central test crop.",
    )
    cutout: int = Field(0, ge=0, description="Pixels a side of the square that is erased after the policy; 0: none.")
