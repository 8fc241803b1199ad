// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package androidx.camera.view;

import android.view.View;
import androidx.camera.core.Preview;

public final class PreviewView extends View {
    public Preview.SurfaceProvider getSurfaceProvider() { throw new RuntimeException("stub"); }
}
