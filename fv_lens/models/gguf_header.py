"""The header of a GGUF file: its fields, and its tensors' names, shapes and places; no tensor is read."""

import mmap
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, LlamaFileType

from ..ground.errors import InputError

VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
BLOCKS = {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()}  # values and bytes of a block, by kind


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of the file. `shape` is in the order of PyTorch, `offset` from where the tensors begin."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def kind_name(self) -> str:
        return GGMLQuantizationType(self.kind).name if self.kind in BLOCKS else f"type {self.kind}"

    @property
    def n_bytes(self) -> int:
        values, n_bytes = BLOCKS.get(self.kind, (1, 0))
        return self.size // values * n_bytes


@dataclass(frozen=True)
class Header:
    """What a GGUF file says of itself. Of a list among the `fields` only its length is kept."""

    file: Path
    fields: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    start: int

    @cached_property
    def architecture(self) -> str:
        return str(self.fields.get("general.architecture", ""))

    @cached_property
    def n_bytes(self) -> int:
        """Bytes that the file has at least, if it is whole."""
        return max((self.start + tensor.offset + tensor.n_bytes for tensor in self.tensors.values()), default=0)

    @cached_property
    def quantization(self) -> str:
        """The type of quantisation, as in "Q4_K_M": from the header, else that of most weights."""
        try:
            return LlamaFileType(self.fields["general.file_type"]).name.removeprefix("MOSTLY_")
        except (KeyError, ValueError):
            weights: Counter[str] = Counter()
            for tensor in self.tensors.values():
                weights[tensor.kind_name] += tensor.size
            return weights.most_common(1)[0][0] if weights else "none"


def read_header(file: Path) -> Header:
    """The header of a GGUF file.

    Raises:
        InputError: the file is not a GGUF, is of another version, or ends within the header; it cannot be read.
    """
    try:
        with file.open("rb") as stream:
            begins = stream.read(4)
            if begins != b"GGUF":
                raise InputError(
                    f"{str(file)!r} is not a GGUF file: it begins with {begins!r}, and a GGUF file with {b'GGUF'!r}; "
                    "give another file, or the folder of a Hugging Face model"
                )
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return _Reader(file, content).header()
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{str(file)!r} cannot be read: {error.strerror or error}; check the file") from error
    except (struct.error, IndexError):
        raise InputError(
            f"{str(file)!r} ends within its header, after {file.stat().st_size} bytes: it is truncated; copy or "
            "download it again"
        ) from None
    except (UnicodeDecodeError, KeyError, ValueError, OverflowError) as error:
        raise InputError(f"the header of {str(file)!r} is damaged ({error}); copy or download it again") from None


class _Reader:
    """Reads the header of a mapped file from its beginning on."""

    def __init__(self, file: Path, content: mmap.mmap):
        self.file, self.content, self.position = file, content, 4

    def header(self) -> Header:
        version = self.number("I")
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            order = "of a big-endian machine" if swapped in VERSIONS else f"of version {version}"
            raise InputError(
                f"{str(self.file)!r} is a GGUF file {order}; expected version 2 or 3, little-endian: download another, "
                "or convert the model again with a current llama.cpp"
            )
        n_tensors, n_fields = self.number("Q"), self.number("Q")
        fields = {}
        for _ in range(n_fields):
            key = self.text()
            fields[key] = self.value(self.number("I"))
        tensors = {tensor.name: tensor for tensor in (self.tensor() for _ in range(n_tensors))}
        alignment = max(1, int(fields.get("general.alignment", 32)))
        return Header(self.file, fields, tensors, -(-self.position // alignment) * alignment)

    def number(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self.content, self.position)
        self.position += struct.calcsize(code)
        return value

    def text(self) -> str:
        length = self.number("Q")
        self.skip(length)
        return self.content[self.position - length : self.position].decode()

    def skip(self, n_bytes: int) -> None:
        self.position += n_bytes
        if self.position > len(self.content):
            raise IndexError

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            return self.number(NUMBERS[kind])
        kind, length = self.number("I"), self.number("Q")
        if kind in NUMBERS:
            self.skip(length * struct.calcsize(NUMBERS[kind]))
        else:
            for _ in range(length):
                self.value(kind) if kind == ARRAY else self.skip(self.number("Q"))
        return length

    def tensor(self) -> TensorInfo:
        name = self.text()
        shape = tuple(self.number("Q") for _ in range(self.number("I")))
        return TensorInfo(name, shape[::-1], self.number("I"), self.number("Q"))
