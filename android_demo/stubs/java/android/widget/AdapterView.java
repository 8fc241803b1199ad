// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package android.widget;

import android.view.View;

public abstract class AdapterView<T extends Adapter> extends View {
    public interface OnItemSelectedListener {
        void onItemSelected(AdapterView<?> parent, View view, int position, long id);

        void onNothingSelected(AdapterView<?> parent);
    }

    public abstract T getAdapter();

    public abstract void setAdapter(T adapter);

    public final OnItemSelectedListener getOnItemSelectedListener() { throw new RuntimeException("stub"); }

    public void setOnItemSelectedListener(OnItemSelectedListener listener) { throw new RuntimeException("stub"); }
}
