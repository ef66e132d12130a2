"""libjpeg-turbo called from compiled code, without Python and without the GIL: JPEG bytes in, rows of RGB out.

Pillow's wheels bring all of libjpeg-turbo (`pillow.libs/libjpeg-*.so*`). `library` finds it and compares its pixels
with simplejpeg's; where it is absent or differs, the caller decodes with simplejpeg instead.

libjpeg ends a fatal error by calling `error_exit`, which must not return. So every call of the library goes through
`_call`, which sets a jump buffer first; `error_exit` jumps back into it, over frames of the library alone.
"""

import contextlib
import ctypes
import functools
import logging
from importlib import metadata
from typing import Any

import numba
import numpy as np
import simplejpeg
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

SIDE = 256
DECODED, DAMAGED, UNDECODABLE, OTHER_SIZE = range(4)
"""What became of a picture: its pixels; pixels with a warning of libjpeg's; none; none, since it is not 256×256."""

# jpeglib.h of ABI 6.2 on 64-bit systems: the fields in use. The library itself refuses a struct of another size.
_VERSION, _RGB, _INFO_BYTES = 62, 2, 632
_INFO = np.dtype(
    {
        "names": ["error_manager", "width", "height", "color_space"],
        "formats": ["i8", "i4", "i4", "i4"],
        "offsets": [0, 48, 52, 64],
        "itemsize": _INFO_BYTES,
    }
)
_ERRORS = np.dtype(
    {
        "names": ["error_exit", "emit_message", "warnings"],
        "formats": ["i8", "i8", "i8"],
        "offsets": [0, 8, 128],
        "itemsize": 168,
    }
)
_ROWS = 4  # the most rows that the library gives at a time
_ROW = SIDE * 3
# one thread's memory, by offsets: the two structs, a jump buffer behind the error manager, row pointers, rows
_JUMP, _INFO_AT, _POINTERS, _ROWS_AT, MEMORY = 192, 1024, 1792, 2048, 2048 + _ROWS * _ROW + 64
_FUNCTIONS = (
    "jpeg_std_error",
    "jpeg_CreateDecompress",
    "jpeg_mem_src",
    "jpeg_read_header",
    "jpeg_start_decompress",
    "jpeg_skip_scanlines",
    "jpeg_read_scanlines",
    "jpeg_finish_decompress",
    "jpeg_destroy",
)
_STD_ERROR, _CREATE, _SOURCE, _HEADER, _START, _SKIP, _READ, _FINISH, _DESTROY = range(len(_FUNCTIONS))
_ERROR_EXIT, _EMIT_MESSAGE = len(_FUNCTIONS), len(_FUNCTIONS) + 1
_WORD, _INT = ir.IntType(64), ir.IntType(32)


def _as_pointer(typing_context: Any, address: Any) -> Any:
    """An integer address as a pointer, in compiled code."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(address), code


def _jump_back(typing_context: Any, jump_buffer: Any) -> Any:
    """C's longjmp(jump_buffer, 1), in compiled code."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = ir.FunctionType(ir.VoidType(), [_WORD, _INT])
        builder.call(cgutils.get_or_insert_function(builder.module, function, "longjmp"), [arguments[0], _INT(1)])
        return context.get_dummy_value()

    return types.void(types.int64), code


def _guarded_call(typing_context: Any, jump_buffer: Any, function: Any, first: Any, second: Any, third: Any) -> Any:
    """The C function at an address, called with three words; its int, or −1 if `jump_buffer` was jumped to."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        name = "call_libjpeg"
        return builder.call(builder.module.globals.get(name) or _build_guarded(builder.module, name), arguments)

    return types.int64(*[types.int64] * 5), code


def _build_guarded(module: Any, name: str) -> Any:
    """A function of its own, in which nothing lives in a register from `_setjmp` to the jump back."""
    guarded = ir.Function(module, ir.FunctionType(_WORD, [_WORD] * 5), name)
    guarded.linkage = "internal"
    guarded.attributes.add("noinline")
    setjmp = cgutils.get_or_insert_function(module, ir.FunctionType(_INT, [_WORD]), "_setjmp")
    setjmp.attributes.add("returns_twice")
    entry, failed, unfailed = (guarded.append_basic_block(label) for label in ("entry", "failed", "unfailed"))
    builder = ir.IRBuilder(entry)
    builder.cbranch(builder.icmp_signed("!=", builder.call(setjmp, guarded.args[:1]), _INT(0)), failed, unfailed)
    ir.IRBuilder(failed).ret(_WORD(-1))
    builder = ir.IRBuilder(unfailed)
    function = builder.inttoptr(guarded.args[1], ir.FunctionType(_INT, [_WORD] * 3).as_pointer())
    builder.ret(builder.zext(builder.call(function, guarded.args[2:]), _WORD))
    return guarded


pointer: Any = intrinsic(_as_pointer)
_longjmp: Any = intrinsic(_jump_back)
_call: Any = intrinsic(_guarded_call)


@numba.cfunc(types.void(types.int64), cache=True)
def _error_exit(info: Any) -> None:
    """What libjpeg calls for a fatal error, in place of ending the process."""
    _longjmp(numba.carray(pointer(info), 1, _INFO)[0].error_manager + _JUMP)


@numba.cfunc(types.void(types.int64, types.int32), cache=True)
def _emit_message(info: Any, level: Any) -> None:
    """What libjpeg calls to warn (level −1): it is counted, and not printed."""
    if level < 0:
        errors = numba.carray(pointer(numba.carray(pointer(info), 1, _INFO)[0].error_manager), 1, _ERRORS)
        errors[0].warnings += 1


@numba.njit(nogil=True, cache=True)
def open_picture(codec: Any, memory: Any, address: Any, size: Any, first_row: Any) -> int:
    """Begin with the JPEG of `size` bytes at `address`; rows are read from `first_row` on. DECODED, or what is wrong.

    codec: `library`'s addresses. memory: address of MEMORY bytes that this thread alone uses, a multiple of 64.
    """
    errors, info = numba.carray(pointer(memory), 1, _ERRORS), numba.carray(pointer(memory + _INFO_AT), 1, _INFO)
    jump, at = memory + _JUMP, memory + _INFO_AT
    _call(jump, codec[_STD_ERROR], memory, 0, 0)
    errors[0].error_exit, errors[0].emit_message = codec[_ERROR_EXIT], codec[_EMIT_MESSAGE]
    info[0].error_manager = memory
    # made anew for each picture: else a JPEG without tables would be decoded by the tables of the one before it
    if _call(jump, codec[_CREATE], at, _VERSION, _INFO_BYTES) < 0:
        return UNDECODABLE
    if _call(jump, codec[_SOURCE], at, address, size) < 0 or _call(jump, codec[_HEADER], at, 1, 0) < 0:
        return UNDECODABLE
    if errors[0].warnings:  # in the header, which says what all the rest means
        return UNDECODABLE
    if info[0].width != SIDE or info[0].height != SIDE:
        return OTHER_SIZE
    info[0].color_space = _RGB
    if _call(jump, codec[_START], at, 0, 0) < 0 or (first_row and _call(jump, codec[_SKIP], at, first_row, 0) < 0):
        return UNDECODABLE
    return DECODED


@numba.njit(nogil=True, cache=True)
def read_rows(codec: Any, memory: Any, most: Any) -> int:
    """Decode the next rows, up to `most`: how many, from address `rows_of(memory)` on; 0 or less if that failed."""
    pointers = numba.carray(pointer(memory + _POINTERS), _ROWS, np.int64)
    for row in range(_ROWS):
        pointers[row] = memory + _ROWS_AT + row * _ROW
    return int(_call(memory + _JUMP, codec[_READ], memory + _INFO_AT, memory + _POINTERS, min(most, _ROWS)))


@numba.njit(nogil=True, cache=True)
def rows_of(memory: Any) -> int:
    """The address of the rows that `read_rows` decoded, 768 bytes each."""
    return int(memory + _ROWS_AT)


@numba.njit(nogil=True, cache=True)
def close_picture(codec: Any, memory: Any, status: Any, next_row: Any) -> int:
    """End with a picture whose rows were read up to `next_row`: what became of it, the rows below looked at too.

    So the verdict on a picture does not depend on its crop. (Skipping to the very end would skip the decoding.)
    """
    jump, at = memory + _JUMP, memory + _INFO_AT
    if status == DECODED and next_row < SIDE:
        skipped = next_row == SIDE - 1 or _call(jump, codec[_SKIP], at, SIDE - 1 - next_row, 0) > 0
        if not skipped or read_rows(codec, memory, 1) <= 0:
            status = UNDECODABLE
    if status == DECODED and _call(jump, codec[_FINISH], at, 0, 0) < 0:
        status = UNDECODABLE
    if status == DECODED and numba.carray(pointer(memory), 1, _ERRORS)[0].warnings:
        status = DAMAGED
    _call(jump, codec[_DESTROY], at, 0, 0)
    return int(status)


@functools.cache
def library() -> NDArray[np.int64] | None:
    """Addresses of the library's functions, for compiled code; None, and a line in the log, where it cannot be used."""
    try:
        found = [file for file in metadata.files("pillow") or () if file.match("pillow.libs/libjpeg-*.so*")]
        loaded = ctypes.CDLL(str(found[0].locate()))
        addresses = [ctypes.cast(getattr(loaded, name), ctypes.c_void_p).value for name in _FUNCTIONS]
    except (metadata.PackageNotFoundError, IndexError, OSError, AttributeError) as error:
        logger.warning("JPEGs are decoded by simplejpeg, more slowly: Pillow has no libjpeg-turbo here (%r)", error)
        return None
    codec = np.array([*addresses, _error_exit.address, _emit_message.address], np.int64)
    picture = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    jpeg = np.frombuffer(simplejpeg.encode_jpeg(picture, colorsubsampling="420"), np.uint8)
    decoded = np.zeros_like(picture)
    if decode(codec, jpeg, 0, decoded, np.empty(MEMORY + 64, np.uint8)) or not np.array_equal(
        decoded, simplejpeg.decode_jpeg(jpeg.tobytes())
    ):
        logger.warning("JPEGs are decoded by simplejpeg, more slowly: %s decodes other pixels", found[0])
        return None
    return codec


@numba.njit(nogil=True, cache=True)
def decode(codec: Any, jpeg: Any, first_row: int, pixels: Any, memory: Any) -> int:
    """Decode one JPEG (uint8 [n]) from `first_row` on into pixels, uint8 [256, 256, 3]: what became of it.

    memory: uint8 [MEMORY + 64]; the caller's, since compiled code frees an array of its own after its last use by name.
    """
    address = np.int64(memory.ctypes.data + 63) // 64 * 64
    status, row = open_picture(codec, address, np.int64(jpeg.ctypes.data), jpeg.size, first_row), first_row
    while status == DECODED and row < SIDE:
        rows = read_rows(codec, address, SIDE - row)
        if rows <= 0:
            status = UNDECODABLE
        decoded = numba.carray(pointer(rows_of(address)), (_ROWS, SIDE, 3), np.uint8)
        for number in range(rows):
            pixels[row + number] = decoded[number]
        row += rows
    return close_picture(codec, address, status, row)


def decode_by_simplejpeg(jpeg: bytes, pixels: NDArray[np.uint8]) -> int:
    """As `decode` from row 0 on. (A fatal error behind a warning counts as DAMAGED: simplejpeg tells one of them.)"""
    try:
        if simplejpeg.decode_jpeg_header(jpeg)[:2] != (SIDE, SIDE):
            return OTHER_SIZE
        with contextlib.suppress(ValueError):
            simplejpeg.decode_jpeg(jpeg, buffer=pixels)
            return DECODED
        pixels[:] = 0
        simplejpeg.decode_jpeg(jpeg, buffer=pixels, strict=False)
    except ValueError:
        return UNDECODABLE
    return DAMAGED


def fault_of(jpeg: bytes) -> str:
    """What is wrong with a JPEG that is not DECODED, for messages."""
    try:
        height, width = simplejpeg.decode_jpeg_header(jpeg)[:2]
        if (height, width) != (SIDE, SIDE):
            return f"decodes to {(height, width, 3)}, expected {(SIDE, SIDE, 3)}"
        simplejpeg.decode_jpeg(jpeg)
    except ValueError as error:
        return f"does not decode ({error})"
    return "does not decode"
