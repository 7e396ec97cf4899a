"""Progress bars that fit: bar, count and time keep their width, the note gets what is left of the line."""

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from jaxbias import train


def messages() -> Console:
    """Standard error: what accompanies a result and is none."""
    return Console(stderr=True)


class Bars(Progress):
    """Rows of: what is done, bar, count, time, note. A row's clock starts when its work does."""

    def __init__(self, console: Console | None = None):
        console = console or messages()
        name_width = 24 if console.width >= 80 else max(8, console.width // 5)
        cut = {"no_wrap": True, "overflow": "ellipsis"}
        super().__init__(
            TextColumn("{task.description}", table_column=Column(**cut, max_width=name_width)),
            BarColumn(bar_width=min(40, console.width // 8), table_column=Column(no_wrap=True)),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[note]}", table_column=Column(**cut, ratio=1)),
            console=console,
            expand=True,
        )  # fmt: skip

    def row(self, description: str, total: int | None = None, note: str = "", **options) -> TaskID:
        """A row, shown and timed from now on."""
        return self.add_task(description, total=total, note=note, **options)

    def trained(self, row: TaskID, progress: train.Progress) -> None:
        """Show epochs done; from the first on the clock is that of training, and the time to compile stands apart."""
        task = self._tasks[row]
        if task.completed == 0:
            self.console.print(
                f"{task.description}: compiled in {progress.compile_s:.1f} s", highlight=False, soft_wrap=True
            )
        with self._lock:
            task.start_time = self.get_time() - progress.train_s
        latest = progress.latest
        accuracy = latest.get("validation_accuracy")
        note = f"test loss {latest['validation_loss']:.4f}" if accuracy is None else f"test accuracy {accuracy:.3f}"
        self.update(row, completed=progress.epoch, total=progress.epochs, note=note)
