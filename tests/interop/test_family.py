"""Mapping of tensors: fused tensors are split and joined again."""

import numpy as np

from finetune_scaling.interop.families.family import FusedSlice, Tensor, to_file

HEADS, HEAD_DIM, MODEL_DIM = 3, 2, 4


def test_fused_kernel_is_split_and_joined():
    fused = np.arange(HEADS * 3 * HEAD_DIM * MODEL_DIM).reshape(-1, MODEL_DIM)
    tensors = [Tensor("qkv", name, transposed=True, fused=FusedSlice(i, 3, HEADS)) for i, name in enumerate("qkv")]
    leaves = [tensor.from_file(fused) for tensor in tensors]
    by_hand = fused.reshape(HEADS, 3, HEAD_DIM, MODEL_DIM)
    for i, value in enumerate(leaves):
        np.testing.assert_array_equal(value, by_hand[:, i].reshape(-1, MODEL_DIM).T)
        assert tensors[i].file_shape(value.shape) == fused.shape
    np.testing.assert_array_equal(to_file(tensors[::-1], leaves[::-1]), fused)


def test_fused_bias_is_split_and_joined():
    fused = np.arange(HEADS * 3 * HEAD_DIM)
    tensors = [Tensor("qkv", name, fused=FusedSlice(i, 3, HEADS)) for i, name in enumerate("qkv")]
    leaves = [tensor.from_file(fused) for tensor in tensors]
    np.testing.assert_array_equal(leaves[1], [2, 3, 8, 9, 14, 15])
    np.testing.assert_array_equal(to_file(tensors, leaves), fused)


def test_plain_tensor_is_transposed():
    value = np.arange(6).reshape(2, 3)
    tensor = Tensor("w", "w", transposed=True)
    np.testing.assert_array_equal(tensor.from_file(value), value.T)
    np.testing.assert_array_equal(to_file([tensor], [value.T]), value)
