"""Device ends for tests: an arm64 root with a real sshd, and an arm64 phone that real adb clients talk to."""
