"""Laws of tfgen.plots: what goes in can be read back out of the picture."""

import csv
import os

import numpy as np
import pytest
from PIL import Image

from tfgen import AutoEncoder, pictures, plots
from tfgen.plots import raster


def made_up(count: int, channels: int = 1, height: int = 5, width: int = 7) -> np.ndarray:
    shape = (count, height, width, channels)
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("padding", [0, 1, 3])
@pytest.mark.parametrize(("count", "columns"), [(1, None), (5, None), (6, 3), (7, 2), (3, 10)])
def test_every_image_can_be_cut_out_of_the_grid(channels, padding, count, columns):
    images = made_up(count, channels)
    picture = plots.grid(images, columns, padding, background=17)
    columns = columns or int(np.ceil(np.sqrt(count)))
    rest = picture.astype(int)
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        top, left = padding + row * (5 + padding), padding + column * (7 + padding)
        np.testing.assert_array_equal(picture[top : top + 5, left : left + 7], image)
        rest[top : top + 5, left : left + 7] = 17
    num_rows = -(-count // columns)
    missing = num_rows * columns - count
    if missing:  # white, to the edge of the picture
        blank = np.s_[(num_rows - 1) * (5 + padding) + padding :, -missing * (7 + padding) :]
        assert (rest[blank] == 255).all()
        rest[blank] = 17
    assert (rest == 17).all()
    assert picture.dtype == np.uint8
    assert picture.shape == (
        num_rows * (5 + padding) + padding,
        columns * (7 + padding) + padding,
        channels,
    )


def test_rows_are_a_grid_of_the_batches():
    one, two, three = np.split(made_up(12), 3)
    np.testing.assert_array_equal(
        plots.rows(one, two, three), plots.grid(np.concatenate([one, two, three]), columns=4)
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scale", [1, 3])
def test_a_saved_picture_reads_back(tmp_path, channels, scale):
    images = made_up(4, channels)
    for given, picture in ((images, plots.grid(images, columns=4)), (images[0], images[0])):
        path = plots.save(given, tmp_path / "new" / "folder" / "a.png", columns=4, scale=scale)
        read = np.asarray(Image.open(path)).reshape(*(scale * n for n in picture.shape[:2]), -1)
        np.testing.assert_array_equal(read, np.kron(picture, np.ones((scale, scale, 1), np.uint8)))
        assert os.listdir(path.parent) == ["a.png"]


@pytest.mark.parametrize("channels", [1, 3])
def test_captions_stand_beside_a_picture_that_they_leave_alone(channels):
    picture = plots.grid(made_up(4, channels, 30, 40), columns=2)
    page = plots.captioned(picture, ["one", "two"], ["left", "right"])
    height, width, _ = picture.shape
    np.testing.assert_array_equal(page[-height:, -width:], picture)
    margins = [page[:-height, -width:][:, : width // 2], page[:-height, -width // 2 :]]
    margins += [page[-height:][: height // 2, :-width], page[-height // 2 :, :-width]]
    assert all(margin.min() < 128 < margin.max() for margin in margins)  # ink on white
    assert (page[:-height, :-width] == 255).all()
    np.testing.assert_array_equal(plots.captioned(picture), picture)
    narrow = plots.captioned(picture, columns=["much too wide for its column", ""])
    np.testing.assert_array_equal(narrow, picture)


def test_tensors_are_images_too(tmp_path):
    import tensorflow as tf

    images = made_up(4)
    np.testing.assert_array_equal(plots.grid(tf.constant(images)), plots.grid(images))
    assert plots.save(tf.constant(images), tmp_path / "a.png").is_file()


def write_log(path, columns: dict[str, list]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def test_progress_is_the_left_strips_in_time_order(tmp_path):
    for epoch in range(1, 21):
        picture = np.full((6, 10, 1), 200, np.uint8)
        picture[:, :3] = epoch
        plots.save(picture, tmp_path / f"epoch_{epoch:04d}.png")
    plots.progress(tmp_path, tmp_path / "progress.png", 3, columns=5)
    drawn = np.asarray(Image.open(tmp_path / "progress.png"))
    assert drawn.shape == (6, 15)
    epochs = drawn[0, ::3].astype(int)
    assert epochs[0] == 1
    assert epochs[-1] == 20
    assert (np.diff(epochs) > 0).all()
    assert (np.diff(epochs, n=2) >= 0).all()
    with pytest.raises(ValueError, match="holds none"):
        plots.progress(tmp_path / "nothing", tmp_path / "progress.png", 3)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_progress_shows_the_first_epoch_and_the_last(tmp_path, count):
    for epoch in range(1, count + 1):
        picture = np.full((6, 10, 1), epoch, np.uint8)
        plots.save(picture, tmp_path / f"epoch_{epoch:04d}.png")
    for columns in (2, 3, 12):
        path = plots.progress(tmp_path, tmp_path / "progress.png", 3, columns=columns)
        epochs = np.asarray(Image.open(path))[0, ::3]
        assert (epochs[0], epochs[-1]) == (1, count)
        assert len(epochs) <= columns
        path.unlink()
    for columns in (-1, 0, 1, 2.5):
        with pytest.raises(ValueError, match="columns must be an integer of at least 2; received"):
            plots.progress(tmp_path, path, 3, columns=columns)
    with pytest.raises(ValueError, match="width must be an integer of at least 1; received 0"):
        plots.progress(tmp_path, path, 0)
    assert not path.exists()


def test_progress_goes_by_the_numbers_of_the_epochs(tmp_path, monkeypatch):
    """Those of pictures of every tenth epoch, and of more than four digits."""
    told = []
    monkeypatch.setattr(raster, "captioned", lambda image, columns: told.append(columns) or image)
    for shade, epoch in enumerate((10, 9990, 10000)):
        picture = np.full((6, 10, 1), shade, np.uint8)
        plots.save(picture, tmp_path / f"epoch_{epoch:04d}.png")
    plots.progress(tmp_path, tmp_path / "progress.png", 3)
    assert told == [["10", "9990", "10000"]]
    drawn = np.asarray(Image.open(tmp_path / "progress.png"))
    assert drawn[0, ::3].tolist() == [0, 1, 2]


def test_history_pairs_each_quantity_with_its_validation_twin(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    add_subplot = Figure.add_subplot
    monkeypatch.setattr(
        Figure,
        "add_subplot",
        lambda *args, **kw: drawn.append(add_subplot(*args, **kw)) or drawn[-1],
    )
    write_log(
        tmp_path / "log.csv",
        {
            "epoch": [0, 1, 2],
            "loss": [3.0, 2.0, 1.0],
            "learning_rate": [0.1, "NA", 0.01],
            "val_loss": [3.5, 2.5, 1.5],
            "val_alone": [1, 2, 3],
        },
    )
    path = plots.history(tmp_path / "log.csv", tmp_path / "out" / "log.png")
    lines = {
        axes.get_title(): {line.get_label(): line.get_ydata() for line in axes.lines}
        for axes in drawn
    }
    assert {title: set(found) for title, found in lines.items()} == {
        "loss": {"loss", "val_loss"},
        "learning_rate": {"learning_rate"},
        "val_alone": {"val_alone"},
    }
    np.testing.assert_array_equal(lines["loss"]["val_loss"], [3.5, 2.5, 1.5])
    np.testing.assert_array_equal(lines["learning_rate"]["learning_rate"], [0.1, 0.01])
    assert len(np.unique(np.asarray(Image.open(path).convert("L")))) > 2
    assert os.listdir(path.parent) == ["log.png"]


def test_history_reads_a_line_that_was_cut_off(tmp_path):
    (tmp_path / "log.csv").write_text("epoch,loss,val_loss\n0,1.0,2.0\n1,0.5")
    assert plots.history(tmp_path / "log.csv", tmp_path / "log.png").is_file()


# Errors


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (np.zeros((2, 4, 4, 1)), r"uint8.*received dtype float64"),
        (np.zeros((4, 4), np.uint8), r"must have shape"),
        (np.zeros((2, 4, 4, 2), np.uint8), "1 or 3 channels"),
        (np.zeros((0, 4, 4, 1), np.uint8), "no empty axis"),
    ],
)
@pytest.mark.parametrize("draw", [plots.grid, plots.rows, lambda x: plots.save(x, "never.png")])
def test_bad_images(images, match, draw):
    with pytest.raises(ValueError, match=match):
        draw(images)


@pytest.mark.parametrize(
    ("argument", "value"),
    [("columns", 0), ("columns", 1.5), ("padding", -1), ("background", 256), ("background", True)],
)
def test_bad_numbers(argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be an integer.*received {value}"):
        plots.grid(made_up(2), **{argument: value})


def test_rows_of_different_batches():
    with pytest.raises(ValueError, match="of one shape"):
        plots.rows(made_up(2), made_up(3))
    with pytest.raises(ValueError, match="one or more"):
        plots.rows()


def test_bad_scale_and_suffix(tmp_path):
    with pytest.raises(ValueError, match="scale must be an integer"):
        plots.save(made_up(2), tmp_path / "a.png", scale=0)
    with pytest.raises(ValueError, match=r"must end in \.png.*Use .*a\.png"):
        plots.save(made_up(2), tmp_path / "a.jpg")
    assert list(tmp_path.iterdir()) == []


def test_unwritable_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"folder that can be written.*Choose another"):
        plots.save(made_up(2), tmp_path / "file" / "a.png")
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OSError, match="folder that can be written"):
        plots.save(made_up(2), tmp_path / "a.png")
    assert sorted(os.listdir(tmp_path)) == ["a.png", "file"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, error):
    path = plots.save(made_up(1), tmp_path / "a.png")
    before = path.read_bytes()

    def fail(self, file, format):
        file.write_bytes(b"half")
        raise error

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(type(error)):
        plots.save(made_up(2), path)
    assert os.listdir(tmp_path) == ["a.png"]
    assert path.read_bytes() == before


def test_numbers_of_numpy_are_numbers():
    """Unsigned ones too, as of labels: they have no negative, and end at 255."""
    images = made_up(30)
    expected = plots.grid(images, 3, 2)
    for kind in (np.uint8, np.int64):
        np.testing.assert_array_equal(plots.grid(images, kind(3), kind(2)), expected)
        assert len(plots.show(images, kind(3)).axes) == 30


@pytest.mark.parametrize("text", ["", "epoch,loss\n", "loss,epoch\n1,2\n", "epoch\n1\n"])
def test_history_of_no_log(tmp_path, text):
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(ValueError, match="must be a log of training"):
        plots.history(tmp_path / "log.csv", tmp_path / "log.png")


def test_history_of_a_missing_log(tmp_path):
    with pytest.raises(FileNotFoundError):
        plots.history(tmp_path / "gone.csv", tmp_path / "log.png")


@pytest.mark.parametrize(("num_classes", "classes"), [(3, 3), (10, 10), (300, 16)])
def test_a_picture_shows_classes_from_the_first_to_the_last(num_classes, classes):
    """And not thousands of images after each epoch."""
    asked = []

    class Model:
        capabilities = ("sample",)

        def sample(self, count, labels, seed):
            asked.extend(labels)
            return np.zeros((count, 8, 8, 1), np.uint8)

    model = Model()
    model.num_classes = num_classes
    pictures.fixed_picture(model, np.zeros((4, 8, 8, 1), np.uint8))
    assert len(asked) == 8 * classes
    assert (asked[0], asked[-1]) == (0, num_classes - 1)
    assert len(set(asked)) == classes


@pytest.mark.parametrize(
    ("count", "height", "width"), [(3, 2, 3), (8, 2, 8), (10, 2, 8), (40, 8, 8)]
)
def test_any_number_of_images_is_reconstructed(count, height, width):
    """A small data set may have a validation split of any size."""
    model = AutoEncoder((8, 8, 1), latent_dim=2, filters=(4,), num_blocks=0)
    picture = pictures.fixed_picture(model, np.zeros((count, 8, 8, 1), np.uint8))
    assert picture.shape == (height * 10 + 2, width * 10 + 2, 1)
