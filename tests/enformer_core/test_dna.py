import numpy as np
import tensorflow as tf

from enformer_core import dna


def test_one_hot_of_every_letter():
    array = dna.one_hot("ACGTNacgtnRx-")
    expected = [*np.eye(4), np.zeros(4), *np.eye(4), *np.zeros((4, 4))]
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, expected)


def test_komlos_is_the_stated_map():
    expected = [[1, 1, -1], [-1, 1, 1], [-1, -1, -1], [1, -1, 1], [0, 0, 0]]
    np.testing.assert_array_equal(dna.komlos(dna.one_hot("ACGTN")), expected)
    np.testing.assert_array_equal(dna.komlos(tf.constant(dna.one_hot("ACGTN"))[tf.newaxis]), [expected])


def test_reverse_complement_reads_the_other_strand():
    np.testing.assert_array_equal(dna.reverse_complement(dna.one_hot("AACGN")), dna.one_hot("NCGTT"))
