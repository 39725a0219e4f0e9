"""The starter model: a tiny bilingual chat model that the project makes itself.

`chats` writes the conversations, `tokens` and `train` make a Llama of about
two million parameters from them, `build` puts it on disk, `tastes` measures
answers. Only `tokens`, `train` and `build` import torch or transformers, so
the others may be used by web processes. Nothing here knows of Django.
"""
