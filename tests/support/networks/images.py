"""Images with one field changed."""

from stillnet.sw.contract import image as layout

__all__ = ["patched"]


def patched(data: bytes, record: int, field: str, value: int) -> bytes:
    """An image with one field of its header changed."""
    offset = record * layout.SLOT_BYTES
    word = int.from_bytes(data[offset : offset + 4], "little")
    fields = layout.HEADER[record].unpack(word) | {field: value}
    word = layout.HEADER[record].pack(fields)
    return data[:offset] + word.to_bytes(4, "little") + data[offset + 4 :]
