// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package android.widget;

import android.net.Uri;
import android.view.View;

public class ImageView extends View {
    public void setImageURI(Uri uri) { throw new RuntimeException("stub"); }
}
