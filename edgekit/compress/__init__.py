"""Methods that map a torch module to a smaller or better torch module, one file each."""
