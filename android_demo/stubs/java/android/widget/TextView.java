// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package android.widget;

import android.view.View;

public class TextView extends View {
    public CharSequence getText() { throw new RuntimeException("stub"); }

    public final void setText(CharSequence text) { throw new RuntimeException("stub"); }

    public final void setText(int id) { throw new RuntimeException("stub"); }
}
