from django.apps import AppConfig


class TrainingConfig(AppConfig):
    name = "training"

    def ready(self) -> None:
        from annotation import figures
        from training.figures import rounds_part

        figures.register("rounds", rounds_part)
