// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package org.pytorch.executorch;

public abstract class Tensor {
    public static Tensor fromBlob(byte[] data, long[] shape) { throw new RuntimeException("stub"); }

    public static Tensor fromBlob(int[] data, long[] shape) { throw new RuntimeException("stub"); }

    public static Tensor fromBlob(float[] data, long[] shape) { throw new RuntimeException("stub"); }

    public byte[] getDataAsByteArray() { throw new RuntimeException("stub"); }

    public int[] getDataAsIntArray() { throw new RuntimeException("stub"); }

    public float[] getDataAsFloatArray() { throw new RuntimeException("stub"); }
}
