"""libjpeg-turbo called from compiled code, without Python and without the GIL: JPEG bytes in, rows of RGB out.

Pillow's wheels bring all of libjpeg-turbo (`pillow.libs/libjpeg-*.so*`); `library` finds it.

libjpeg ends a fatal error by calling `error_exit`, which must not return. So every call of the library goes through
`_call`, which sets a jump buffer first; `error_exit` jumps back into it, over frames of the library alone.
"""

import ctypes
import functools
from collections.abc import Callable
from importlib import metadata
from typing import Any

import numba
import numpy as np
import simplejpeg
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numpy.typing import NDArray

SIDE = 256
DECODED, DAMAGED, UNDECODABLE, OTHER_SIZE = range(4)
"""What became of a picture: its pixels; pixels with a warning of libjpeg's; none; none, since it is not 256×256."""

# jpeglib.h of ABI 6.2 on 64-bit systems: the fields in use. The library itself refuses a struct of another size.
_VERSION, _RGB, _INFO_BYTES = 62, 2, 632
_INFO = np.dtype({"names": ["width", "height", "color_space"], "formats": ["i4"] * 3, "offsets": [48, 52, 64]})
_ERRORS = np.dtype({"names": ["error_exit", "emit_message", "warnings"], "formats": ["i8"] * 3, "offsets": [0, 8, 128]})
_ROWS = 4  # the most rows that the library gives at a time
_ROW = SIDE * 3
# one thread's memory, by offsets: the two structs, a jump buffer behind the error manager, row pointers, rows
_JUMP, _INFO_AT, _POINTERS, ROWS_AT, MEMORY = 192, 1024, 1792, 2048, 2048 + _ROWS * _ROW + 64
_FUNCTIONS = (
    *("std_error", "CreateDecompress", "mem_src", "read_header", "start_decompress"),
    *("skip_scanlines", "read_scanlines", "finish_decompress", "destroy"),
)
_STD_ERROR, _CREATE, _SOURCE, _HEADER, _START, _SKIP, _READ, _FINISH, _DESTROY = range(len(_FUNCTIONS))
_ERROR_EXIT, _EMIT_MESSAGE = len(_FUNCTIONS), len(_FUNCTIONS) + 1
_WORD, _INT = ir.IntType(64), ir.IntType(32)


def in_llvm(returns: Any, *takes: Any) -> Callable[[Callable[..., Any]], Any]:
    """Makes `emit(builder, …)`, which writes LLVM's instructions, a function for compiled code to call."""

    def decorate(emit: Callable[..., Any]) -> Any:
        @functools.wraps(emit)  # numba counts the arguments by it
        def typed(typing_context: Any, *arguments: Any) -> Any:
            def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                result = emit(builder, *values)
                return context.get_dummy_value() if returns == types.void else result

            return returns(*takes), generate

        return intrinsic(typed)

    return decorate


@in_llvm(types.voidptr, types.int64)
def pointer(builder: Any, address: Any) -> Any:
    """An integer address as a pointer."""
    return builder.inttoptr(address, cgutils.voidptr_t)


@in_llvm(types.void, types.int64)
def _longjmp(builder: Any, jump_buffer: Any) -> Any:
    """C's longjmp(jump_buffer, 1)."""
    function = ir.FunctionType(ir.VoidType(), [_WORD, _INT])
    return builder.call(cgutils.get_or_insert_function(builder.module, function, "longjmp"), [jump_buffer, _INT(1)])


@in_llvm(types.int64, *[types.int64] * 5)
def _call(builder: Any, jump_buffer: Any, function: Any, first: Any, second: Any, third: Any) -> Any:
    """The C function at an address, called with three words; its int, or −1 if `jump_buffer` was jumped to."""
    name = "call_libjpeg"
    guarded = builder.module.globals.get(name) or _build_guarded(builder.module, name)
    return builder.call(guarded, [jump_buffer, function, first, second, third])


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


@numba.cfunc(types.void(types.int64), cache=True)
def _error_exit(info: Any) -> None:
    """What libjpeg calls for a fatal error, in place of ending the process."""
    _longjmp(info - _INFO_AT + _JUMP)


@numba.cfunc(types.void(types.int64, types.int32), cache=True)
def _emit_message(info: Any, level: Any) -> None:
    """What libjpeg calls to warn (level −1): it is counted, and not printed."""
    if level < 0:
        numba.carray(pointer(info - _INFO_AT), 1, _ERRORS)[0].warnings += 1


@numba.njit(nogil=True, cache=True)
def open_picture(codec: Any, memory: Any, address: Any, size: Any, first_row: Any) -> int:
    """Begin with the JPEG of `size` bytes at `address`; rows are read from `first_row` on. DECODED, or what is wrong.

    codec: `library`'s addresses. memory: address of MEMORY bytes that this thread alone uses, a multiple of 64.
    """
    errors, info = numba.carray(pointer(memory), 1, _ERRORS), numba.carray(pointer(memory + _INFO_AT), 1, _INFO)
    jump, at = memory + _JUMP, memory + _INFO_AT
    _call(jump, codec[_STD_ERROR], memory, 0, 0)
    errors[0].error_exit, errors[0].emit_message = codec[_ERROR_EXIT], codec[_EMIT_MESSAGE]
    numba.carray(pointer(at), 1, np.int64)[0] = memory  # its first field: the error manager
    if (
        # made anew for each picture: else a JPEG without tables would be decoded by the tables of the one before it
        _call(jump, codec[_CREATE], at, _VERSION, _INFO_BYTES) < 0
        or _call(jump, codec[_SOURCE], at, address, size) < 0
        or _call(jump, codec[_HEADER], at, 1, 0) < 0
        or errors[0].warnings  # in the header, which says what all the rest means
    ):
        return UNDECODABLE
    if info[0].width != SIDE or info[0].height != SIDE:
        return OTHER_SIZE
    info[0].color_space = _RGB
    if _call(jump, codec[_START], at, 0, 0) < 0 or (first_row and _call(jump, codec[_SKIP], at, first_row, 0) < 0):
        return UNDECODABLE
    return DECODED


@numba.njit(nogil=True, cache=True)
def read_rows(codec: Any, memory: Any, most: Any) -> int:
    """Decode the next rows, up to `most`: how many, from memory + ROWS_AT on; 0 or less if that failed."""
    pointers = numba.carray(pointer(memory + _POINTERS), _ROWS, np.int64)
    for row in range(_ROWS):
        pointers[row] = memory + ROWS_AT + row * _ROW
    return int(_call(memory + _JUMP, codec[_READ], memory + _INFO_AT, memory + _POINTERS, min(most, _ROWS)))


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


def library() -> NDArray[np.int64]:
    """Addresses of the library's functions, for compiled code. Raises LookupError or OSError where there is none."""
    files = [file for file in metadata.files("pillow") or () if file.match("pillow.libs/libjpeg-*.so*")]
    if not files:
        raise LookupError("this Pillow brings no libjpeg-turbo")
    loaded = ctypes.CDLL(str(files[0].locate()))
    addresses = [ctypes.cast(getattr(loaded, f"jpeg_{name}"), ctypes.c_void_p).value for name in _FUNCTIONS]
    return np.array([*addresses, _error_exit.address, _emit_message.address], np.int64)


def decode_by_simplejpeg(jpeg: bytes, pixels: NDArray[np.uint8]) -> tuple[int, str]:
    """Decode into pixels, uint8 [256, 256, 3]: what became of it, and what is wrong, in words for a message.

    (A fatal error behind a warning counts as DAMAGED: simplejpeg tells one of them.)
    """
    try:
        height, width = simplejpeg.decode_jpeg_header(jpeg)[:2]
        if (height, width) != (SIDE, SIDE):
            return OTHER_SIZE, f"decodes to {(height, width, 3)}, expected {(SIDE, SIDE, 3)}"
        try:
            simplejpeg.decode_jpeg(jpeg, buffer=pixels)
        except ValueError as error:
            pixels[:] = 0
            simplejpeg.decode_jpeg(jpeg, buffer=pixels, strict=False)
            return DAMAGED, f"does not decode ({error})"
    except ValueError as error:
        return UNDECODABLE, f"does not decode ({error})"
    return DECODED, "does not decode"
