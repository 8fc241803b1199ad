"""TorchScript files with int8 operators by QNNPACK, run by torch on the device."""
