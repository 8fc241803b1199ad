// Stub: only so that :app compiles where there is no Android SDK. See ../README.md.
package org.tensorflow.lite;

public interface Delegate extends AutoCloseable {
    @Override
    void close();
}
