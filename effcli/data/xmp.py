"""XMP packets of pictures whose pixels are written anew: edited in place, so that all other bytes stay."""

from __future__ import annotations

import re

_GAIN_MAP = "http://ns.adobe.com/hdr-gain-map/1.0/"
_CAMERA = "http://ns.google.com/photos/1.0/camera/"
_CONTAINER = "http://ns.google.com/photos/1.0/container/"
_NOTE = "http://ns.adobe.com/xmp/note/"

_APPENDED = {  # namespace -> (names of the properties that speak of data behind the picture, what these data are)
    _GAIN_MAP: (r"\w+", "gain map"),
    _CAMERA: (r"(?:MotionPhoto|MicroVideo)\w*", "film"),
    _CONTAINER: (r"Directory", ""),
    _NOTE: (r"HasExtendedXMP", "extended XMP packet"),
}


def upright_xmp(xmp: bytes | str, width: int, height: int) -> bytes:
    """Set the orientation in an XMP packet to 1, and the size to that of the upright picture, where they are named."""
    packet = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    packet = _with_value(packet, "tiff:Orientation", 1)
    for name, pixels in (("PixelXDimension", width), ("PixelYDimension", height)):
        packet = _with_value(packet, f"exif:{name}", pixels)
    for name, pixels in (("ImageWidth", width), ("ImageLength", height)):
        packet = _with_value(packet, f"tiff:{name}", pixels)
    return packet


def without_appended_data(packet: bytes) -> tuple[bytes, tuple[str, ...]]:
    """Drop the properties that point to what is not written again: a gain map, a film, the rest of the packet.

    Returns:
        The packet, and a note on what is gone.
    """
    gone: list[str] = []
    for namespace, (names, kind) in _APPENDED.items():
        for prefix in re.findall(
            rb"xmlns:(\w+)\s*=\s*[\"']" + re.escape(namespace.encode()) + rb"[\"']", packet
        ):
            name = prefix + b":(" + names.encode() + b")"
            packet, n_attributes = re.subn(rb"\s+" + name + rb"\s*=\s*(?:\"[^\"]*\"|'[^']*')", b"", packet)
            element = rb"<" + name + rb"\b[^>]*?(?:/>|>.*?</" + prefix + rb":\1\s*>)"
            packet, n_elements = re.subn(element, b"", packet, flags=re.DOTALL)
            if kind and n_attributes + n_elements:
                gone.append(kind)
    kinds = list(dict.fromkeys(gone))
    return packet, (
        f"its {' and '.join(kinds)} {'is' if len(kinds) == 1 else 'are'} not kept",
    ) if kinds else ()


def _with_value(packet: bytes, name: str, value: int) -> bytes:
    """Give a whole-number property this value, as an attribute or an element, where it is there."""
    pattern = rb"(" + name.encode() + rb"\s*(?:=\s*[\"']|>\s*))\d+"
    return re.sub(pattern, lambda found: found[1] + str(value).encode(), packet)
