"""XMP packets: what points to data that are not written again goes, sizes follow the picture, all else stays."""

from __future__ import annotations

import pytest

from effcli.data.xmp import upright_xmp, without_appended_data

NAMES = (
    'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" xmlns:exif="http://ns.adobe.com/exif/1.0/" '
    'xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" xmlns:Cam="http://ns.google.com/photos/1.0/camera/" '
    'xmlns:Container="http://ns.google.com/photos/1.0/container/" '
    'xmlns:Item="http://ns.google.com/photos/1.0/container/item/" xmlns:dc="http://purl.org/dc/elements/1.1/"'
)


def packet(attributes: str, elements: str = "") -> bytes:
    return f"<rdf:Description {NAMES} {attributes}>{elements}</rdf:Description>".encode()


def test_sizes_and_orientation_are_those_of_the_upright_picture() -> None:
    before = packet(
        "tiff:Orientation='6' exif:PixelXDimension=\"150\"", "<tiff:ImageLength>150</tiff:ImageLength>"
    )
    after = upright_xmp(before, 100, 150)
    assert b"tiff:Orientation='1' exif:PixelXDimension=\"100\"" in after
    assert b"<tiff:ImageLength>150</tiff:ImageLength>" in after
    assert upright_xmp("<a tiff:ImageWidth = '7'/>", 12, 5) == b"<a tiff:ImageWidth = '12'/>"


@pytest.mark.parametrize(
    ("attributes", "elements", "note"),
    [
        ("hdrgm:Version=\"1.0\" hdrgm:GainMapMax='2'", "", "its gain map is not kept"),
        ("", "<hdrgm:Version>1.0</hdrgm:Version>", "its gain map is not kept"),
        ('Cam:MotionPhoto="1" Cam:MicroVideoOffset="4096"', "", "its film is not kept"),
        ("", "<Cam:MotionPhoto>1</Cam:MotionPhoto><Cam:MicroVideo/>", "its film is not kept"),
        ('hdrgm:Version="1" Cam:MotionPhoto="1"', "", "its gain map and film are not kept"),
    ],
)
def test_what_speaks_of_data_behind_the_picture_goes(attributes: str, elements: str, note: str) -> None:
    container = (
        "<Container:Directory><rdf:Seq><Container:Item Item:Length='383'/></rdf:Seq></Container:Directory>"
    )
    before = packet(
        f'dc:title="x" {attributes} Cam:Shot="2"', elements + container + "<dc:creator>me</dc:creator>"
    )
    after, notes = without_appended_data(before)
    assert notes == (note,)
    wanted = packet('dc:title="x" Cam:Shot="2"', "<dc:creator>me</dc:creator>")
    assert after.split() == wanted.split()


def test_other_packets_stay_byte_for_byte() -> None:
    before = packet('dc:title="hdrgm:Version MotionPhoto"', "<dc:description>a > b</dc:description>")
    assert without_appended_data(before) == (before, ())
