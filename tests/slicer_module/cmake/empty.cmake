# Slicer's own files define what the stub beside this one stands for.
