"""What TRL, PEFT and papers call what config.json has under another name: for hints alone."""

SAID_ELSEWHERE = {
    "lr": '"learning_rate"',
    "model_name_or_path": '"base_model"',
    "num_train_epochs": '"epochs"',
    "max_steps": '"epochs"',
    "per_device_train_batch_size": '"batch_size", a whole step\'s',
    "gradient_accumulation_steps": '"batch_size", a whole step\'s',
    "loss_weights": '"loss": {"sigmoid": 1.0, "sft": 0.2}',
    "rpo_alpha": '"loss": {"sigmoid": 1.0, "sft": 0.2}',
    "gradient_checkpointing": '"savings.checkpointing"',
    "bf16": '"dtype"',
    "load_in_4bit": '"tuning": "qlora"',
    **{f"lora_{key}": f'"lora.{key}"' for key in ("r", "alpha", "dropout")},
    "lora_target_modules": '"lora.target_modules"',
}
"""Keys of TRL's and PEFT's configs, and ours for the same, where another key of ours is
spelt more alike: the hint must not lead to that."""

LOSSES_ELSEWHERE = {
    "dpo": '"sigmoid"',
    "cdpo": '"sigmoid" with "label_smoothing"',
    "rpo": '{"sigmoid": 1.0, "sft": 0.2}',
    "slic": '"hinge"',
}
"""Names of papers for losses that have another one here, likewise."""
