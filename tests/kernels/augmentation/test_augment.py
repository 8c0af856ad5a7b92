"""The augmentation policy: Keras's conventions, its draws, its presets, and every target."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from keras.src.legacy.preprocessing import image as keras_image

from kernels import random, target
from kernels.augmentation import affine, affine_maps, color
from kernels.augmentation.augment import _DRAWS, Augmentation
from tests.kernels.augmentation.test_affine import (
    composed,
    extended,
    forms,
    random_images,
    resampled,
)

Array = npt.NDArray[np.float64]

SEED, STEP = 11, 1234
EVERYTHING = Augmentation(
    rotation=30.0,
    width_shift=0.1,
    height_shift=0.3,
    shear=15.0,
    zoom=(0.7, 1.1),
    horizontal_flip=True,
    vertical_flip=True,
    resized_crop=(0.3, 1.0),
    fill="reflect",
    brightness=0.3,
    contrast=0.4,
    saturation=0.5,
    cutout=3,
)


def apply(policy: Augmentation, images: Any, positions: Any = None, step: Any = STEP) -> Any:
    """The policy's images at the file's seed."""
    positions = tf.range(images.shape[0]) if positions is None else positions
    return policy(images, seed=SEED, step=step, positions=positions)


def drawn(count: int) -> dict[str, Array]:
    """The uniform draws behind `apply`, by name."""
    values = random.uniform(SEED, "augment", STEP, tf.range(count), (len(_DRAWS),)).numpy()
    return dict(zip(_DRAWS, values.astype(np.float64).T, strict=True))


def scipy_affine_transform(
    channel: Array, matrix: Array, offset: Array, *, order: int, mode: str, cval: float
) -> Array:
    """scipy.ndimage.affine_transform in NumPy, for order 1 and the modes equal to ours."""
    assert order == 1
    assert mode in ("nearest", "reflect")
    assert cval == 0.0
    rows, columns = np.indices(channel.shape)
    y, x = (matrix[axis, 0] * rows + matrix[axis, 1] * columns + offset[axis] for axis in (0, 1))
    result = np.zeros(channel.shape)
    for dy, dx in itertools.product((0, 1), (0, 1)):
        at_y, at_x = np.floor(y).astype(int) + dy, np.floor(x).astype(int) + dx
        weight = (1 - np.abs(y - at_y)) * (1 - np.abs(x - at_x))
        result += weight * extended(channel[..., None], at_y, at_x, mode)[..., 0]
    return result


class _Scipy:
    """Stands for the scipy that Keras's legacy preprocessing imports."""

    class ndimage:  # noqa: N801 - scipy's name
        """scipy.ndimage."""

        class interpolation:  # noqa: N801 - scipy's name
            """scipy.ndimage.interpolation."""

            affine_transform = staticmethod(scipy_affine_transform)


@pytest.fixture
def keras_generator(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes ImageDataGenerators whose scipy is `scipy_affine_transform`."""
    monkeypatch.setattr(keras_image, "scipy", _Scipy)
    return keras_image.ImageDataGenerator


TRANSFORMS: tuple[dict[str, Any], ...] = (
    {"theta": 17.0},
    {"theta": -120.0},
    {"tx": 2.3, "ty": -1.6},
    {"shear": 25.0},
    {"zx": 0.6, "zy": 1.3},
    {"flip_horizontal": True},
    {"flip_vertical": True},
    {"theta": -33.0, "tx": -3.2, "ty": 1.4, "shear": -12.0, "zx": 1.2, "zy": 0.8},
    {"theta": 20.0, "tx": 1.5, "ty": 2.5, "flip_horizontal": True, "flip_vertical": True},
)


@pytest.mark.parametrize("fill", ["nearest", "reflect"])
def test_each_transform_equals_image_data_generators(keras_generator: Any, fill: Any) -> None:
    """Each transform and their compositions give the image that ImageDataGenerator gives."""
    images = random_images(len(TRANSFORMS), 9, 9, 2)
    generator = keras_generator(fill_mode=fill, dtype="float64")
    want = [
        generator.apply_transform(image, parameters)
        for image, parameters in zip(images, TRANSFORMS, strict=True)
    ]
    matrices = tf.stack(
        [
            affine_maps.affine_matrices(
                9,
                9,
                rotation=math.radians(p.get("theta", 0.0)),
                shift_x=p.get("tx", 0.0),
                shift_y=p.get("ty", 0.0),
                shear=math.radians(p.get("shear", 0.0)),
                zoom_x=p.get("zx", 1.0),
                zoom_y=p.get("zy", 1.0),
                window_width=-1.0 if p.get("flip_horizontal") else 1.0,
                window_height=-1.0 if p.get("flip_vertical") else 1.0,
            )
            for p in TRANSFORMS
        ]
    )
    got = affine.affine_transform(tf.constant(images, tf.float32), matrices, fill=fill)
    np.testing.assert_allclose(got.numpy(), np.stack(want), rtol=0, atol=3e-5)


def test_article_equals_image_data_generator_at_the_same_draws(keras_generator: Any) -> None:
    """The preset's images are those of ImageDataGenerator told the preset's draws."""
    images = random_images(40, 11, 11, 3)
    u = drawn(40)
    generator = keras_generator(dtype="float64")
    want = [
        generator.apply_transform(
            images[i],
            {
                "theta": 20.0 * (2 * u["rotation"][i] - 1),
                "tx": 0.2 * 11 * (2 * u["shift_x"][i] - 1),
                "ty": 0.2 * 11 * (2 * u["shift_y"][i] - 1),
                "flip_horizontal": u["flip_x"][i] < 0.5,
            },
        )
        for i in range(40)
    ]
    got = apply(Augmentation.article(), tf.constant(images, tf.float32))
    np.testing.assert_allclose(got.numpy(), np.stack(want), rtol=0, atol=1e-4)


def test_article_draws_what_image_data_generator_draws(keras_generator: Any) -> None:
    """The moments of the preset's parameters are those of the generator's, over 2,000 draws."""
    generator = keras_generator(
        rotation_range=20, width_shift_range=0.2, height_shift_range=0.2, horizontal_flip=True
    )
    state = np.random.get_state()
    np.random.seed(3)
    theirs = [generator.get_random_transform((16, 16, 1)) for _ in range(2000)]
    np.random.set_state(state)
    u = drawn(2000)
    ours = {
        "theta": 20.0 * (2 * u["rotation"] - 1),
        "tx": 0.2 * 16 * (2 * u["shift_x"] - 1),
        "ty": 0.2 * 16 * (2 * u["shift_y"] - 1),
        "flip_horizontal": u["flip_x"] < 0.5,
    }
    for name, values in ours.items():
        reference = np.array([float(parameters[name]) for parameters in theirs])
        spread = reference.std()
        assert abs(values.mean() - reference.mean()) < 0.13 * spread, name
        assert abs(values.std() / spread - 1) < 0.05, name
    for parameters in theirs:
        assert (parameters["shear"], parameters["zx"], parameters["zy"]) == (0, 1, 1)


def test_standard_is_a_padded_crop_and_a_flip() -> None:
    """The preset copies pixels of the zero-padded image at whole offsets, flipped by half."""
    images = random_images(60, 7, 9, 2).astype(np.float32)
    u = drawn(60)
    padded = np.pad(images, [(0, 0), (4, 4), (4, 4), (0, 0)])
    want = []
    for i in range(60):
        y, x = int(u["crop_y"][i] * 9), int(u["crop_x"][i] * 9)
        crop = padded[i, y : y + 7, x : x + 9]
        want.append(crop[:, ::-1] if u["flip_x"][i] < 0.5 else crop)
    policy = Augmentation.standard()
    for name, got in forms(lambda value: apply(policy, value), tf.constant(images)).items():
        np.testing.assert_array_equal(got.numpy(), np.stack(want), err_msg=name)
    whole = tf.constant(np.random.default_rng(0).integers(0, 255, (60, 7, 9, 2)), tf.uint8)
    got = apply(policy, whole)
    assert got.dtype == tf.uint8
    np.testing.assert_array_equal(got.numpy(), apply(policy, tf.cast(whole, tf.float32)).numpy())


def test_geometry_equals_the_product_of_its_factors_at_the_draws() -> None:
    """Every geometric parameter at once, on images that are not square, equals float64's truth."""
    images = random_images(24, 8, 13, 2)
    u = drawn(24)
    policy = Augmentation(
        rotation=30.0,
        width_shift=0.1,
        height_shift=0.3,
        shear=15.0,
        zoom=(0.7, 1.1),
        horizontal_flip=True,
        vertical_flip=True,
        crop_padding=2,
        fill="reflect",
    )
    matrices = [
        composed(
            8,
            13,
            {
                "rotation": math.radians(30.0) * (2 * u["rotation"][i] - 1),
                "shift_x": 0.1 * 13 * (2 * u["shift_x"][i] - 1),
                "shift_y": 0.3 * 8 * (2 * u["shift_y"][i] - 1),
                "shear": math.radians(15.0) * (2 * u["shear"][i] - 1),
                "zoom_x": 0.7 + 0.4 * u["zoom_x"][i],
                "zoom_y": 0.7 + 0.4 * u["zoom_y"][i],
                "window_x": math.floor(5 * u["crop_x"][i]) - 2,
                "window_y": math.floor(5 * u["crop_y"][i]) - 2,
                "window_width": -1.0 if u["flip_x"][i] < 0.5 else 1.0,
                "window_height": -1.0 if u["flip_y"][i] < 0.5 else 1.0,
            },
        )
        for i in range(24)
    ]
    want = resampled(images, np.stack(matrices), "reflect", "bilinear")
    got = apply(policy, tf.constant(images, tf.float32))
    np.testing.assert_allclose(got.numpy(), want, rtol=0, atol=1e-4)


def test_resized_crop_reads_a_window_inside_the_image() -> None:
    """The window has the drawn area and aspect and lies inside: a ramp comes back linear."""
    ramp = np.stack(np.meshgrid(np.arange(20.0) + 3.0, np.arange(12.0) - 5.0), -1)
    images = tf.constant(np.tile(ramp[None], [300, 1, 1, 1]), tf.float32)
    policy = Augmentation(resized_crop=(0.2, 0.6), crop_aspect=(0.5, 2.0))
    got = apply(policy, images).numpy().astype(np.float64)
    u = drawn(300)
    area = (0.2 + 0.4 * u["area"]) * 240
    aspect = np.exp(math.log(0.5) + math.log(4.0) * u["aspect"])
    width, height = np.minimum(np.sqrt(area * aspect), 20), np.minimum(np.sqrt(area / aspect), 12)
    left, top = u["crop_x"] * (20 - width), u["crop_y"] * (12 - height)
    x = left[:, None] + (np.arange(20) + 0.5) * width[:, None] / 20 - 0.5
    y = top[:, None] + (np.arange(12) + 0.5) * height[:, None] / 12 - 0.5
    want_x = np.broadcast_to(np.clip(x, 0, 19)[:, None, :] + 3.0, got[..., 0].shape)
    want_y = np.broadcast_to(np.clip(y, 0, 11)[:, :, None] - 5.0, got[..., 1].shape)
    np.testing.assert_allclose(got[..., 0], want_x, atol=1e-4)
    np.testing.assert_allclose(got[..., 1], want_y, atol=1e-4)


def test_colors_equal_their_formulas() -> None:
    """Brightness, contrast and saturation follow their formulas, per example, in this order."""
    images = random_images(30, 5, 6, 3)
    u = drawn(30)
    policy = Augmentation(brightness=0.3, contrast=1.4, saturation=0.5)
    factors = [
        (low + (high - low) * u[name])[:, None, None, None]
        for name, low, high in (
            ("brightness", 0.7, 1.3),
            ("contrast", 0.0, 2.4),
            ("saturation", 0.5, 1.5),
        )
    ]
    bright = images * factors[0]
    mean = bright.mean((1, 2), keepdims=True)
    contrasted = (bright - mean) * factors[1] + mean
    grey = (contrasted * [0.2989, 0.587, 0.114]).sum(-1, keepdims=True)
    want = (contrasted - grey) * factors[2] + grey
    np.testing.assert_allclose(apply(policy, tf.constant(images)).numpy(), want, atol=1e-6)
    single = tf.constant(images, tf.float32)
    np.testing.assert_allclose(
        color.adjust_contrast(single, tf.fill([30], 1.7)),
        tf.image.adjust_contrast(single, 1.7),
        atol=1e-5,
    )
    whole = tf.constant(np.random.default_rng(0).integers(0, 255, (30, 5, 6, 3)), tf.uint8)
    wide = np.clip(np.round(apply(policy, tf.cast(whole, tf.float64)).numpy()), 0, 255)
    assert np.abs(apply(policy, whole).numpy().astype(float) - wide).max() <= 1


def test_cutout_overwrites_a_square_cut_at_the_border() -> None:
    """Each image has its square about the drawn pixel, and nothing else changes."""
    images = random_images(50, 8, 11, 2).astype(np.float32)
    u = drawn(50)
    for size in (3, 4):
        want = images.copy()
        for i in range(50):
            y, x = int(u["cutout_y"][i] * 8) - size // 2, int(u["cutout_x"][i] * 11) - size // 2
            want[i, max(y, 0) : y + size, max(x, 0) : x + size] = 0.25
        got = apply(Augmentation(cutout=size, fill_value=0.25), tf.constant(images))
        np.testing.assert_array_equal(got.numpy(), want)


def test_everything_agrees_on_every_target_and_slice() -> None:
    """All parameters at once agree in eager, graph and XLA, and a slice alone is the slice."""
    images = tf.constant(random_images(24, 13, 10, 3), tf.float32)
    positions = tf.range(24)

    def both(images: tf.Tensor, positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return (
            apply(EVERYTHING, images, positions),
            apply(EVERYTHING, images[8:13], positions[8:13]),
        )

    results = forms(both, images, positions)
    for name, (whole, part) in results.items():
        np.testing.assert_allclose(whole, results["eager"][0], rtol=0, atol=3e-4, err_msg=name)
        np.testing.assert_allclose(part, whole[8:13], rtol=0, atol=1e-5, err_msg=name)
    assert np.abs(results["eager"][0] - images).mean() > 0.1
    other = apply(EVERYTHING, images, step=STEP + 1)
    assert np.abs(results["eager"][0] - other).mean() > 0.1


def test_a_parameter_leaves_the_others_draws_alone() -> None:
    """Adding cutout to a policy changes no pixel outside of the squares."""
    images = tf.constant(random_images(20, 9, 9, 1), tf.float32)
    plain = apply(Augmentation.article(), images).numpy()
    cut = apply(dataclasses.replace(Augmentation.article(), cutout=3), images).numpy()
    np.testing.assert_array_equal(cut[cut != 0.0], plain[cut != 0.0])
    assert 20 * 4 <= (cut == 0.0).sum() <= 20 * 9


def test_dtypes_and_sizes() -> None:
    """Every dtype comes back as it went in, near float32's result; odd sizes and no example run."""
    images = tf.constant(random_images(6, 5, 7, 3) * 30 + 100, tf.float32)
    want = apply(EVERYTHING, images).numpy()
    for dtype, step in ((tf.float64, 0.0), (tf.float16, 2.0**-9), (tf.bfloat16, 2.0**-6)):
        got = apply(EVERYTHING, tf.cast(images, dtype))
        assert got.dtype == dtype
        np.testing.assert_allclose(
            tf.cast(got, tf.float64), want, rtol=step, atol=0.02 + 300 * step
        )
    compilers: tuple[target.Compiler, ...] = ("eager", "xla")
    for compiler, shape in itertools.product(compilers, ((0, 4, 4, 3), (2, 1, 1, 3), (1, 1, 5, 3))):
        with target.tracing_for(compiler):
            got = apply(EVERYTHING, tf.zeros(shape))
        assert got.shape == shape
        assert np.isfinite(got.numpy()).all()


def test_identity_costs_nothing() -> None:
    """The default policy returns its argument and adds no operation."""
    assert Augmentation().is_identity
    assert not Augmentation(cutout=1).is_identity
    with tf.Graph().as_default() as graph:
        images = tf.zeros([2, 3, 3, 1])
        before = len(graph.get_operations())
        assert apply(Augmentation(), images, positions=[0, 1]) is images
        assert len(graph.get_operations()) == before


@pytest.mark.parametrize(
    "wrong",
    [
        {"rotation": -1.0},
        {"rotation": 200.0},
        {"width_shift": 1.5},
        {"height_shift": -0.1},
        {"shear": 90.0},
        {"zoom": 1.0},
        {"zoom": (1.2, 0.8)},
        {"crop_padding": -1},
        {"crop_padding": 1.5},
        {"resized_crop": (0.0, 1.0)},
        {"resized_crop": (0.5, 1.0), "crop_padding": 2},
        {"crop_aspect": (2.0, 1.0)},
        {"fill": "mirror"},
        {"fill_value": math.nan},
        {"interpolation": "cubic"},
        {"brightness": -0.1},
        {"contrast": math.inf},
        {"saturation": -2.0},
        {"cutout": -3},
    ],
)
def test_a_wrong_value_raises_when_the_policy_is_made(wrong: dict[str, Any]) -> None:
    """The error names the attribute and the value."""
    name = next(iter(wrong))
    with pytest.raises(ValueError, match=rf"Augmentation\.{name}: expected .* got"):
        Augmentation(**wrong)


def test_wrong_images_raise() -> None:
    """Images without static sides, of another dtype or of the wrong channels are refused."""
    with pytest.raises(ValueError, match=r"Augmentation: expected images \[B, H, W, C\]"):
        apply(Augmentation(cutout=2), tf.zeros([2, 4, 4]))
    with pytest.raises(TypeError, match="int32"):
        apply(Augmentation(cutout=2), tf.zeros([2, 4, 4, 1], tf.int32))
    with pytest.raises(ValueError, match="saturation"):
        apply(Augmentation(saturation=0.5), tf.zeros([2, 4, 4, 1]))
