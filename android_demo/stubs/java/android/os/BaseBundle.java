// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package android.os;

import java.util.Set;

public class BaseBundle {
    public Set<String> keySet() { throw new RuntimeException("stub"); }

    public String getString(String key) { throw new RuntimeException("stub"); }

    public void putString(String key, String value) { throw new RuntimeException("stub"); }
}
