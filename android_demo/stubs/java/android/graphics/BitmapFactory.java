// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package android.graphics;

import java.io.InputStream;

public class BitmapFactory {
    public static Bitmap decodeStream(InputStream stream) { throw new RuntimeException("stub"); }
}
