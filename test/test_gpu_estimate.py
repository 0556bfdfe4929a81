# SPDX-FileCopyrightText: vggt_ros contributors
# SPDX-License-Identifier: Apache-2.0
"""benchmarks/estimate.py without its compiler: kernels of a program's text, and the estimate."""

import os
import subprocess
import sys

import pytest

from benchmarks.estimate import LAUNCH, RATES, report, seconds
from benchmarks.kernels import Kernel, kernels, parse, shape, size
from vggt_ros.errors import UserError

# As XLA writes it: a fusion that reads a slice, a loop of four with a product within a fusion, a
# product of cuBLAS, attention of cuDNN and a convolution.
TEXT = """HloModule jit_f, is_scheduled=true

%cut (p0: f32[10,100], p1: s32[]) -> f32[1,100] {
  %p0 = f32[10,100]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %row = f32[1,100]{1,0} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={1,100}
}

%inner (a: bf16[8,16], b: bf16[16,32]) -> bf16[8,32] {
  %a = bf16[8,16]{1,0} parameter(0)
  %b = bf16[16,32]{1,0} parameter(1)
  ROOT %dot = bf16[8,32]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (t: (s32[], bf16[8,16])) -> (s32[], bf16[8,16]) {
  %t = (s32[], /*index=1*/bf16[8,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %x = bf16[8,16]{1,0} get-tuple-element(%t), index=1
  %w = bf16[16,32]{1,0} constant({...})
  %product = bf16[8,32]{1,0} fusion(%x, %w), kind=kCustom, calls=%inner, metadata={op_name="jit(f)/dot"}
  ROOT %out = (s32[], bf16[8,16]{1,0}) tuple(%i, %x)
}

%condition (t.1: (s32[], bf16[8,16])) -> pred[] {
  %t.1 = (s32[], bf16[8,16]{1,0}) parameter(0)
  ROOT %more = pred[] constant(false)
}

ENTRY %main (q: bf16[2,50,3,64], k: bf16[2,70,3,64], m: f32[10,100], n: s32[]) -> f32[10,7] {
  %q = bf16[2,50,3,64]{3,2,1,0} parameter(0)
  %k = bf16[2,70,3,64]{3,2,1,0} parameter(1)
  %m = f32[10,100]{1,0} parameter(2)
  %n = s32[] parameter(3)
  %start = (s32[], bf16[8,16]{1,0}) tuple(%n, %m)
  %loop = (s32[], /*index=1*/bf16[8,16]{1,0}) while(%start), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"4"}}
  %one = f32[1,100]{1,0} fusion(%m, %n), kind=kLoop, calls=%cut, metadata={op_name="jit(f)/slice"}
  %attention = (bf16[2,3,50,64]{3,1,2,0}, u8[0]{0}) custom-call(%q, %k, %k), custom_call_target="__cudnn$fmhaSoftmax", metadata={op_name="jit(f)/attention"}
  %u = f32[100,7]{1,0} constant({...})
  %gemm = (f32[10,7]{1,0}, s8[64]{0}) custom-call(%m, %u), custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}
  %image = f32[1,6,8,5]{3,2,1,0} constant({...})
  %filter = f32[4,3,3,5]{3,2,1,0} constant({...})
  %conv = (f32[1,6,8,4]{3,2,1,0}, u8[0]{0}) custom-call(%image, %filter), window={size=3x3 pad=1_1x1_1}, custom_call_target="__cudnn$convForward"
  ROOT %end = f32[10,7]{1,0} get-tuple-element(%gemm), index=0
}
"""  # noqa: E501


def test_kernels_are_counted_with_their_loops_bytes_and_operations():
    found = {kernel.name: kernel for kernel in kernels(parse(TEXT))}
    assert [*found] == ["product", "one", "attention", "gemm", "conv"]
    assert [kernel.times for kernel in found.values()] == [4, 1, 1, 1, 1]
    product, one, attention, gemm, conv = found.values()
    assert product.operations == 2 * 8 * 16 * 32 and product.source == "jit(f)/dot"
    assert product.bytes == 2 * (8 * 16 + 16 * 32 + 8 * 32)
    assert one.bytes == 4 * 100 + 4 * 100 + 4  # the slice, its result and its place
    assert attention.operation == "__cudnn$fmhaSoftmax"
    assert attention.operations == 2 * 2 * 2 * 3 * 50 * 70 * 64
    assert gemm.operations == 2 * 10 * 100 * 7
    assert gemm.bytes == 4 * (10 * 100 + 100 * 7 + 10 * 7) + 64
    assert conv.operations == 2 * 9 * 6 * 8 * 5 * 4


def test_what_depends_on_the_data_is_not_counted_as_if_it_ran_once():
    endless = TEXT.replace(', backend_config={"known_trip_count":{"n":"4"}}', "")
    with pytest.raises(UserError, match="loop loops as often as the data say"):
        kernels(parse(endless))
    branching = TEXT.replace("while(%start), condition=%condition, body=%body", "conditional(%n)")
    with pytest.raises(UserError, match="loop branches as the data say"):
        kernels(parse(branching))


def test_sizes_and_shapes_of_types():
    assert size("(f32[2,3]{1,0}, bf16[5]{0}, pred[])") == 24 + 10 + 1
    assert shape("(bf16[2,3,50,64]{3,1,2,0}, u8[0]{0})") == [2, 3, 50, 64]
    assert size("f32[2,3]{1,0}") == 24 and shape("s32[]") == []


def test_a_kernel_takes_the_longer_of_its_bytes_and_its_operations():
    moving = Kernel("a", "fusion", "f32[8]", "", 3, 2.89e9, 0.0)
    assert seconds(moving) == pytest.approx(1e-3 + LAUNCH)
    product = Kernel("b", "__cublas$lt$matmul", "bf16[8]", "", 1, 1e3, 6e11)
    assert seconds(product) == pytest.approx(6e11 / RATES["bf16"] + LAUNCH)
    text = report("a program", [moving, moving, product], rows=1)
    assert text.startswith("a program: 7.01 ms estimated, 7 kernels, 17.34 GB, 0.6 TFLOP")
    assert text.splitlines()[-1].startswith("| 6.01 | 85.7% | 6 | 2.89e+03 | fusion | f32[8] |")


def test_without_the_compiler_the_next_step_is_named(root):
    command = [sys.executable, "benchmarks/estimate.py", "window", "--model", "tiny"]
    environment = {name: x for name, x in os.environ.items() if not name.startswith("XLA")}
    done = subprocess.run(
        command, cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1 and "pip install 'jax[cuda13]'" in done.stderr
