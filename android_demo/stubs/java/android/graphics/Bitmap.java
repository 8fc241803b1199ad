// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package android.graphics;

public final class Bitmap {
    public int getWidth() { throw new RuntimeException("stub"); }

    public int getHeight() { throw new RuntimeException("stub"); }

    public void getPixels(int[] pixels, int offset, int stride, int x, int y, int width, int height) { throw new RuntimeException("stub"); }
}
