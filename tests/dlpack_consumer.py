"""tensormem's DLPack against consumers and producers that are not ours: NumPy, and PyTorch where it
is installed. The argument is the shared library made of tests/dlpack_consumer.c. One line a check
that holds, "PASS name"; one that does not ends the run with its traceback. Started by tests/dlpack.sh."""
import ctypes
import gc
import sys

import numpy

try:
    import torch
except ImportError:
    torch = None

U64, I64, PTR, INT = ctypes.c_uint64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int
lib = ctypes.CDLL(sys.argv[1])
for name, result, *arguments in [
    ("open", PTR), ("close", INT, PTR), ("make", U64, PTR, INT, INT, PTR),
    ("forget", INT, PTR, U64), ("write", INT, PTR, U64, U64, PTR, U64),
    ("read", INT, PTR, U64, U64, PTR, U64), ("change", INT, PTR, U64, U64, ctypes.c_ubyte),
    ("pins", U64, PTR, U64), ("export", PTR, PTR, U64, INT, INT), ("delete", None, PTR, INT),
    ("import", U64, PTR, PTR, INT, INT), ("why", ctypes.c_char_p), ("shape", INT, PTR, U64, PTR),
]:
    function = getattr(lib, "consumer_" + name)
    function.restype, function.argtypes = result, arguments

api = ctypes.pythonapi
DESTRUCTOR = ctypes.CFUNCTYPE(None, PTR)
api.PyCapsule_New.restype = ctypes.py_object
api.PyCapsule_New.argtypes = [PTR, ctypes.c_char_p, DESTRUCTOR]
is_valid = ctypes.PYFUNCTYPE(INT, PTR, ctypes.c_char_p)(("PyCapsule_IsValid", api))
pointer_in = ctypes.PYFUNCTYPE(PTR, PTR, ctypes.c_char_p)(("PyCapsule_GetPointer", api))
rename = ctypes.PYFUNCTYPE(INT, PTR, ctypes.c_char_p)(("PyCapsule_SetName", api))

READ, WRITE, BUSY = 0, 1, -6
OLD, VERSIONED, USED = b"dltensor", b"dltensor_versioned", b"used_dltensor"
dtypes = {"uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "float16": 6, "float32": 8,
          "float64": 9}
asked = set()  # which forms of the ABI
unclaimed = []  # capsules that nobody took; their destructor is the deleter


@DESTRUCTOR
def dropped(capsule):
    for versioned, label in ((0, OLD), (1, VERSIONED)):
        if is_valid(capsule, label):
            unclaimed.append(label)
            lib.consumer_delete(pointer_in(capsule, label), versioned)


class Lent:
    """What Python's protocol asks of a producer."""

    def __init__(self, mem, tensor, access):
        self.mem, self.tensor, self.access = mem, tensor, access

    def __dlpack__(self, stream=None, max_version=None, dl_device=None, copy=None):
        versioned = 1 if max_version is not None and max_version[0] >= 1 else 0
        asked.add("v1" if versioned else "v0")
        managed = lib.consumer_export(self.mem, self.tensor, self.access, versioned)
        if not managed:
            raise BufferError(lib.consumer_why().decode())
        return api.PyCapsule_New(managed, VERSIONED if versioned else OLD, dropped)

    def __dlpack_device__(self):
        return (1, 0)


def address(array):
    return array.ctypes.data


def make(mem, values):
    shape = (I64 * values.ndim)(*values.shape)
    tensor = lib.consumer_make(mem, dtypes[values.dtype.name], values.ndim, shape)
    assert tensor
    assert lib.consumer_write(mem, tensor, 0, address(values), values.nbytes) == 0
    return tensor


def read(mem, tensor, like):
    out = numpy.zeros(like.shape, like.dtype)
    assert lib.consumer_read(mem, tensor, 0, address(out), out.nbytes) == 0
    return out


def some(dtype, *shape):
    count = int(numpy.prod(shape))
    return (numpy.arange(count) * 37 % 101).astype(dtype).reshape(shape)


def numpy_reads_every_dtype(mem):
    for dtype in dtypes:
        values = some(dtype, 3, 4, 5)
        tensor = make(mem, values)
        seen = numpy.from_dlpack(Lent(mem, tensor, WRITE))
        assert seen.dtype == values.dtype and seen.shape == (3, 4, 5)
        assert seen.strides == values.strides
        assert (seen == values).all()
        assert lib.consumer_pins(mem, tensor) == 1
        del seen
        gc.collect()
        assert lib.consumer_pins(mem, tensor) == 0
        assert lib.consumer_forget(mem, tensor) == 0


def the_array_keeps_the_pin(mem):
    values = some("float32", 6, 7)
    tensor = make(mem, values)
    seen = numpy.from_dlpack(Lent(mem, tensor, WRITE))
    part = seen[2:4].T  # another array of the same memory
    del seen
    gc.collect()
    assert lib.consumer_pins(mem, tensor) == 1
    assert lib.consumer_close(mem) == BUSY
    assert (part == values[2:4].T).all()
    del part
    gc.collect()
    assert lib.consumer_pins(mem, tensor) == 0


def it_is_the_pinned_memory_itself(mem):
    values = some("int32", 16)
    tensor = make(mem, values)
    seen = numpy.from_dlpack(Lent(mem, tensor, WRITE))
    ctypes.c_int32.from_address(address(seen) + 4 * 5).value = -77  # numpy calls it read only
    assert seen[5] == -77
    del seen
    gc.collect()
    assert read(mem, tensor, values)[5] == -77


def a_capsule_nobody_took(mem):
    tensor = make(mem, some("int8", 9))
    for versions, label in ((None, OLD), ((1, 0), VERSIONED)):
        capsule = Lent(mem, tensor, WRITE).__dlpack__(max_version=versions)
        assert lib.consumer_pins(mem, tensor) == 1
        del capsule
        gc.collect()
        assert unclaimed.pop() == label and not unclaimed
        assert lib.consumer_pins(mem, tensor) == 0
    asked.clear()  # that was us


def a_read_only_pin_in_the_old_form(mem):
    tensor = make(mem, some("int8", 9))
    try:
        Lent(mem, tensor, READ).__dlpack__()
    except BufferError as error:
        assert "read only" in str(error)
    else:
        assert False, "a read-only pin went out in a form that cannot say so"
    assert lib.consumer_pins(mem, tensor) == 0


def take(mem, array, writable=0):
    """NumPy's own capsule becomes a tensor; what was refused stays in the capsule."""
    capsule = array.__dlpack__()
    managed = pointer_in(id(capsule), OLD)
    tensor = lib.consumer_import(mem, managed, 0, writable)
    if tensor:
        rename(id(capsule), USED)
    return tensor


def numpy_arrays_come_in(mem):
    for dtype in dtypes:
        values = some(dtype, 2, 3, 4)
        before = sys.getrefcount(values)
        tensor = take(mem, values)
        shape = (I64 * 5)()
        assert lib.consumer_shape(mem, tensor, shape) == dtypes[dtype]
        assert list(shape) == [2, 3, 4, 0, 0]
        assert (read(mem, tensor, values) == values).all()
        assert sys.getrefcount(values) == before + 1  # held by the tensor
        assert lib.consumer_forget(mem, tensor) == 0
        assert sys.getrefcount(values) == before  # and let go, once
    column = numpy.asfortranarray(some("float32", 8, 1))  # a dimension of 1 strides as it likes
    tensor = take(mem, column)
    assert tensor and lib.consumer_forget(mem, tensor) == 0
    tensor = take(mem, numpy.array(2.5))
    assert tensor and (read(mem, tensor, numpy.zeros(1)) == [2.5]).all()
    assert lib.consumer_forget(mem, tensor) == 0


def what_is_not_row_major_is_refused(mem):
    values = some("float32", 4, 6)
    before = sys.getrefcount(values)
    for part in (values.T, values[:, :3], values[::2], values[::-1], values[:, ::2]):
        assert take(mem, part) == 0
        assert b"row-major" in lib.consumer_why()
    del part
    for wrong in (some("uint32", 3), some("complex64", 3)):
        assert take(mem, wrong) == 0
        assert b"dtype" in lib.consumer_why()
    assert take(mem, values[:0]) == 0
    gc.collect()
    assert sys.getrefcount(values) == before
    assert take(mem, values[1:3]) != 0  # whole rows are without gaps


def writes_go_where_they_were_meant_to(mem):
    shared, kept = some("uint8", 64), some("uint8", 64)
    tensor, other = take(mem, shared, 1), take(mem, kept, 0)
    shared[3] = 200  # by the producer
    assert read(mem, tensor, shared)[3] == 200
    assert lib.consumer_change(mem, tensor, 5, 201) == 0  # by a fast tier, then down
    assert shared[5] == 201
    before = kept.copy()
    assert lib.consumer_change(mem, other, 5, 201) == 0
    assert (kept == before).all()  # the tensor has bytes of its own now
    assert read(mem, other, kept)[5] == 201


def round_trip(mem):
    values = some("float64", 5, 5)
    tensor = take(mem, values)
    back = numpy.from_dlpack(Lent(mem, tensor, WRITE))
    assert (back == values).all() and address(back) != address(values)  # in the fast tier
    del back
    gc.collect()


def torch_reads_and_writes(mem):
    values = some("float32", 4, 8)
    tensor = make(mem, values)
    seen = torch.from_dlpack(Lent(mem, tensor, WRITE))
    assert tuple(seen.shape) == (4, 8) and seen.stride() == (8, 1)
    assert (seen.numpy() == values).all()
    seen[2, 3] = 1234.5
    del seen
    gc.collect()
    assert lib.consumer_pins(mem, tensor) == 0
    assert read(mem, tensor, values)[2, 3] == 1234.5
    theirs = torch.arange(24, dtype=torch.int32).reshape(4, 6)
    capsule = torch.utils.dlpack.to_dlpack(theirs)
    taken = lib.consumer_import(mem, pointer_in(id(capsule), OLD), 0, 1)
    assert taken and rename(id(capsule), USED) == 0
    assert (read(mem, taken, theirs.numpy()) == theirs.numpy()).all()
    assert lib.consumer_forget(mem, taken) == 0


def main():
    checks = [numpy_reads_every_dtype, the_array_keeps_the_pin, it_is_the_pinned_memory_itself,
              a_capsule_nobody_took, a_read_only_pin_in_the_old_form, numpy_arrays_come_in,
              what_is_not_row_major_is_refused, writes_go_where_they_were_meant_to, round_trip]
    if torch is not None:
        checks.append(torch_reads_and_writes)
    for check in checks:
        mem = lib.consumer_open()
        check(mem)
        gc.collect()
        assert lib.consumer_close(mem) == 0, check.__name__
        assert not unclaimed, check.__name__
        print("PASS", check.__name__)
    print("numpy", numpy.__version__, "torch", torch.__version__ if torch else "is not installed",
          "asked for", sorted(asked))


main()
