// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package android.widget;

public class Spinner extends AdapterView<SpinnerAdapter> {
    @Override
    public SpinnerAdapter getAdapter() { throw new RuntimeException("stub"); }

    @Override
    public void setAdapter(SpinnerAdapter adapter) { throw new RuntimeException("stub"); }
}
