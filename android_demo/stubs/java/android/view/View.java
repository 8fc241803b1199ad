// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package android.view;

public class View {
    public static final int GONE = 8;
    public static final int VISIBLE = 0;

    public interface OnClickListener {
        void onClick(View view);
    }

    public int getVisibility() { throw new RuntimeException("stub"); }

    public void setVisibility(int visibility) { throw new RuntimeException("stub"); }

    public void setOnClickListener(OnClickListener listener) { throw new RuntimeException("stub"); }
}
