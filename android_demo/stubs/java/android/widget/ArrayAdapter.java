// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package android.widget;

import android.content.Context;
import java.util.List;

public class ArrayAdapter<T> implements SpinnerAdapter {
    public ArrayAdapter(Context context, int resource, List<T> objects) { throw new RuntimeException("stub"); }
}
