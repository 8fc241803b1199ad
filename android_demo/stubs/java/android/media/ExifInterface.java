// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package android.media;

import java.io.IOException;
import java.io.InputStream;

public class ExifInterface {
    public static final int ORIENTATION_NORMAL = 1;
    public static final String TAG_ORIENTATION = "Orientation";

    public ExifInterface(InputStream stream) throws IOException { throw new RuntimeException("stub"); }

    public int getAttributeInt(String tag, int otherwise) { throw new RuntimeException("stub"); }
}
