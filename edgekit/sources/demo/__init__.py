"""The built-in demo: handwritten digits, a small residual network and its trained weights.

``net.py`` is written as a user would write a model file, ``digits.py`` reads scikit-learn's digits
and cuts them in three disjoint parts, ``weights.safetensors`` is what ``scripts/train_demo.py`` made.
"""
