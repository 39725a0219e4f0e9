from django.apps import AppConfig


class TrainingConfig(AppConfig):
    name = "training"

    def ready(self) -> None:
        from annotation import figures
        from training.figures import funnel, rounds_part

        figures.register("rounds", rounds_part)
        figures.register("funnel", funnel)
