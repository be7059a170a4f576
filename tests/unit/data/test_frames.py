"""Frames of videos and stills: which are taken, how they are turned and scaled, and every way a file can be bad."""

import io
import re
import struct
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image

from ssr1_rl.data.frames import VideoError, load_frames
from ssr1_rl.types import VideoRef
from tests.unit.data.media import media_bytes, noise
from tests.unit.data.videos import LEVEL, grey, write_video


def load(path, frames_per_s=1.0, max_frames=8, frame_size=448):
    ref = VideoRef(stills=tuple(map(str, path))) if isinstance(path, list) else VideoRef(str(path))
    return load_frames(ref, frames_per_s=frames_per_s, max_frames=max_frames, frame_size=frame_size)


def shown(frames):
    """The indices of the frames in their video, by their grey."""
    return [round(float(frame.mean()) / LEVEL) for frame in frames]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """4 s: 40 frames, a key frame every 1.2 s."""
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", [grey(index) for index in range(40)])


def test_one_frame_a_second_from_the_middle_of_each(video):
    frames = load(video)
    assert shown(frames) == [5, 15, 25, 35]
    assert all(frame.dtype == np.uint8 and frame.shape == (48, 64, 3) for frame in frames)


def test_no_more_frames_than_asked_spread_over_the_whole_length(video):
    assert shown(load(video, 10.0, max_frames=8)) == [2, 7, 12, 17, 22, 27, 32, 37]
    assert shown(load(video, 10.0, max_frames=1)) == [20]


def test_every_frame_once_where_more_are_asked_for_than_there_are(video):
    assert shown(load(video, 100.0, max_frames=1000)) == list(range(40))


def test_a_part_of_a_second_still_gives_a_frame(video):
    assert shown(load(video, 0.01)) == [20]


@pytest.mark.parametrize("format", ["matroska", "mpegts", "flv", "mov", "nut"])
def test_containers_with_other_ways_to_seek(tmp_path, format):
    path = write_video(tmp_path / "clip", [grey(index) for index in range(40)], format=format)
    assert shown(load(path, 2.0)) == pytest.approx([2, 7, 12, 17, 22, 27, 32, 37], abs=2)
    assert shown(load(path, 10.0, max_frames=1000)) == list(range(40))


def test_only_what_is_needed_is_decoded(tmp_path, monkeypatch):
    """A long video with a key frame every second: 4 frames cost a few decoded ones each, not all 600."""
    path = write_video(tmp_path / "long.mp4", [grey(index % 40) for index in range(600)], gop=10)
    from ssr1_rl.data.decode.video_file import _Player

    timed = []
    time_s = _Player._time_s
    monkeypatch.setattr(_Player, "_time_s", lambda self, frame: timed.append(time_s(self, frame)) or timed[-1])
    assert shown(load(path, 1.0, max_frames=4)) == [index % 40 for index in (75, 225, 375, 525)]
    assert len(set(timed)) < 60


def test_a_single_key_frame_is_not_returned_to_again_and_again(tmp_path, monkeypatch):
    path = write_video(tmp_path / "one_key.mp4", [grey(index % 40) for index in range(300)], gop=1000)
    from ssr1_rl.data.decode.video_file import _Player

    seeks = []
    go_to = _Player._go_to
    monkeypatch.setattr(_Player, "_go_to", lambda self, at_s: seeks.append(at_s) or go_to(self, at_s))
    assert shown(load(path, 10.0, max_frames=6)) == [index % 40 for index in (25, 75, 125, 175, 225, 275)]
    assert len(seeks) == 1


def test_frames_of_unequal_length_are_taken_by_the_time_they_are_shown(tmp_path):
    path = write_video(tmp_path / "clip.mkv", [grey(1), grey(2), grey(3), grey(4)], times=[0, 5, 35, 39])
    assert shown(load(path)) == [2, 3]  # at 0.5, 1.5 and 2.5 s the second frame is shown, at 3.5 s the third


def test_one_frame_alone(tmp_path):
    path = write_video(tmp_path / "one.mp4", [grey(9)])
    assert shown(load(path)) == [9]


def test_the_sound_of_a_video_is_ignored_however_long_it_is(tmp_path):
    """Matroska states one length, that of the sound: the frames are spread over the pictures."""
    path = write_video(tmp_path / "clip.mkv", [grey(index) for index in range(40)], sound_s=20.0)
    assert shown(load(path)) == [5, 15, 25, 35]


def test_a_length_that_the_header_does_not_state_is_found(tmp_path):
    path = write_video(tmp_path / "live.webm", [grey(i) for i in range(40)], codec="libvpx", options={"live": "1"})
    with av.open(str(path)) as container:
        assert container.duration is None
    assert shown(load(path)) == pytest.approx([5, 15, 25, 35], abs=1)


@pytest.mark.parametrize("degrees", [90, 180, -90])
def test_a_turned_video_is_turned_upright(tmp_path, degrees):
    """A phone stores pictures as its sensor lies, and how far to turn them."""
    upright = np.zeros((48, 64, 3), np.uint8)
    upright[:24, :32] = 255  # white at the top left
    path = write_video(tmp_path / "clip.mp4", [np.rot90(upright, -degrees // 90).copy()], rotation=degrees)
    [frame] = load(path)
    assert frame.shape == (48, 64, 3) and frame.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(frame.astype(int), upright, atol=60)


def test_the_longest_edge_is_scaled_down_and_never_up(tmp_path, video):
    wide = write_video(tmp_path / "wide.mp4", [grey(9, width=320, height=160)])
    assert load(wide, frame_size=100)[0].shape == (50, 100, 3)
    turned = write_video(tmp_path / "turned.mp4", [grey(9, width=320, height=160)], rotation=90)
    assert load(turned, frame_size=100)[0].shape == (100, 50, 3)
    assert load(video, frame_size=4000)[0].shape == (48, 64, 3)


def test_colours_are_red_green_blue(tmp_path):
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[:] = (200, 100, 20)
    path = write_video(tmp_path / "clip.mov", [picture], codec="png")
    assert load(path)[0][24, 32].tolist() == [200, 100, 20]


# --- stills


def still(path, picture, **options):
    Image.fromarray(picture).save(path, **options)
    return path


def test_stills_in_order_spread_over_those_there_are(tmp_path):
    stills = [still(tmp_path / f"{index}.png", grey(index)) for index in range(10)]
    assert shown(load(stills)) == [0, 1, 3, 4, 5, 6, 8, 9]
    assert shown(load(stills, max_frames=2)) == [2, 7]
    assert shown(load(stills[:3])) == [0, 1, 2]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_formats_of_stills_by_content_not_by_name(tmp_path, format):
    [frame] = load([still(tmp_path / "still.dat", grey(20, width=1000, height=500), format=format)], frame_size=100)
    assert frame.shape == (50, 100, 3) and shown([frame]) == [20]


def test_a_still_is_turned_as_its_tag_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    picture = np.zeros((40, 80, 3), np.uint8)
    picture[:, :40] = 255
    [frame] = load([still(tmp_path / "still.png", picture, exif=exif)])
    assert frame.shape == (80, 40, 3)
    assert frame[20, 20].tolist() == [255] * 3 and frame[60, 20].tolist() == [0] * 3


def test_a_still_of_16_bits_keeps_its_brightness(tmp_path):
    path = tmp_path / "deep.png"
    Image.fromarray(np.full((8, 8), 20 * LEVEL * 256, np.uint16)).save(path)
    assert shown(load([path])) == [20]


# --- what cannot be used


@pytest.mark.parametrize("many", [False, True])
def test_files_that_are_none(tmp_path, many):
    def refuse(path, match):
        with pytest.raises(VideoError, match=match):
            load([path] if many else path)

    refuse(tmp_path / "gone.mp4", r"gone\.mp4: no such video file; add it, or fix data's video_dir")
    refuse(tmp_path, "is a folder, not a video file; fix the row, or data's video_dir")
    (tmp_path / "empty.mp4").touch()
    refuse(tmp_path / "empty.mp4", r"the file is empty \(0 bytes\); fetch it again")
    (tmp_path / "page.mp4").write_text("<html>404 not found</html>")
    refuse(tmp_path / "page.mp4", r"page\.mp4: (corrupt, or|is no picture, or) of an unknown format")
    refuse("a\0b", "is no file name")


def test_a_file_of_sound_alone(tmp_path):
    path = tmp_path / "sound.mp4"
    path.write_bytes(media_bytes("mp4", "aac", noise(0.5)))
    with pytest.raises(VideoError, match=r"sound\.mp4: has no video stream \(it has audio\); leave its row out"):
        load(path)


def test_a_cover_is_no_video(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        cover = container.add_stream("png", rate=1)
        cover.width = cover.height = 16
        cover.pix_fmt = "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        sound = container.add_stream("aac", rate=16_000, layout="mono")
        container.mux(cover.encode(av.VideoFrame.from_ndarray(grey(1, 16, 16), "rgb24")))
        container.mux(cover.encode())
        block = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        block.sample_rate = 16_000
        container.mux(sound.encode(block))
        container.mux(sound.encode())
    with pytest.raises(VideoError, match=r"has no video stream .* besides a cover picture"):
        load(path)


@pytest.mark.parametrize("kept", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("options", [{}, {"movflags": "faststart"}], ids=["index last", "index first"])
def test_a_truncated_video_is_refused(tmp_path, kept, options):
    path = write_video(tmp_path / "clip.mp4", [grey(index) for index in range(40)], options=options)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(VideoError, match=r"clip\.mp4: truncated, its header promises \d+ bytes more than the file has"):
        load(path)


def test_a_truncated_still_is_refused(tmp_path):
    path = still(tmp_path / "still.jpg", np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(VideoError, match=r"still\.jpg: corrupt, .*truncated"):
        load([path])


def test_stripes_are_refused(tmp_path):
    with pytest.raises(VideoError, match=r"1000 x 2 pixels are a stripe"):
        load([still(tmp_path / "still.png", grey(1, width=1000, height=2))])


def test_frames_without_times_are_refused(tmp_path):
    path = write_video(tmp_path / "clip.h264", [grey(1), grey(2)], format="h264")
    with pytest.raises(VideoError, match=r"its frames have no times.*ffmpeg -i FILE -c copy FILE\.mp4"):
        load(path)


def hostile_png(width, height):
    """A PNG of 1 x 1 whose header promises more."""
    import zlib

    file = io.BytesIO()
    Image.fromarray(np.zeros((1, 1, 3), np.uint8)).save(file, format="PNG")
    data = bytearray(file.getvalue())
    data[16:24] = struct.pack(">2I", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


def test_a_still_that_promises_too_much(tmp_path):
    path = tmp_path / "bomb.png"
    path.write_bytes(hostile_png(60_000, 60_000))
    with pytest.raises(VideoError, match=r"bomb\.png: .*(60000 x 60000|exceeds limit)"):
        load([path])


@pytest.mark.parametrize("size", [(30_000, 30_000), (16_000, 16_000), (2**31 - 1, 2**31 - 1), (0, 0)])
def test_a_video_whose_pictures_promise_too_much_takes_no_memory(tmp_path, size):
    path = write_video(tmp_path / "clip.mov", [grey(1, 32, 32)], codec="png")
    data = path.read_bytes()
    start = data.index(b"\x89PNG")
    small = data[start : data.index(b"IEND", start) + 8]
    bomb = bytearray(small)
    bomb[16:24] = struct.pack(">2I", *size)
    path.write_bytes(data.replace(small, bytes(bomb)).replace(*[struct.pack(">HH", 32, 32)] * 2))
    code = (
        "import resource, sys; from ssr1_rl.data.frames import *; from ssr1_rl.types import VideoRef\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"try: load_frames(VideoRef({str(path)!r}), frames_per_s=1, max_frames=4, frame_size=64)\n"
        "except VideoError as error: print(error)\n"
        "else: sys.exit('accepted')\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, 'MiB')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = re.search(r"(\d+) MiB", done.stdout)
    assert str(path) in done.stdout and found and int(found[1]) < 200, done.stdout


def test_a_playlist_opens_nothing(tmp_path, video):
    """FFmpeg would follow addresses and further files."""
    path = tmp_path / "list.mp4"
    for text in (
        f"ffconcat version 1.0\nfile {video}\n",
        f"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\n{video}\n#EXT-X-ENDLIST\n",
    ):
        path.write_text(text)
        with pytest.raises(VideoError, match=r"list\.mp4: corrupt, or of an unknown format"):
            load(path)


def test_a_name_that_looks_like_an_address_is_a_file(tmp_path, video, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VideoError, match="no such video file"):
        load("http://127.0.0.1:9/clip.mp4")
    (tmp_path / "http:clip.mp4").write_bytes(video.read_bytes())
    assert shown(load("http:clip.mp4")) == [5, 15, 25, 35]


def test_broken_bytes_raise_nothing_else(tmp_path, video):
    """Hundreds of damaged videos: either frames come out, or a `VideoError`."""
    chance = np.random.default_rng(0)
    originals = [video.read_bytes()]
    for format, codec in (("matroska", "libx264"), ("avi", "mpeg4"), ("mov", "png"), ("mpegts", "libx264")):
        path = write_video(tmp_path / "clip", [grey(i) for i in range(6)], codec=codec, format=format)
        originals.append(path.read_bytes())
    path = tmp_path / "broken"
    for turn in range(300):
        data = bytearray(originals[turn % len(originals)])
        for _ in range(chance.choice([1, 5, 20])):
            data[chance.integers(min(len(data), chance.choice([64, 700, len(data)])))] = chance.integers(256)
        if turn % 4 == 0:
            del data[chance.integers(len(data)) :]
        path.write_bytes(data)
        try:
            frames = load(path, 2.0)
        except VideoError as error:
            assert str(path) in str(error)
        else:
            assert frames and all(frame.dtype == np.uint8 and frame.ndim == 3 for frame in frames)
