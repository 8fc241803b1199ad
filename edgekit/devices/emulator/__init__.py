"""Arm devices without the device: qemu-aarch64 in user mode, dressed up as the board of a profile."""
