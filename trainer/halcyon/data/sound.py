"""Sounds as a model hears them: samples of a file, and their features.

A file is decoded by `soundfile`, a package of its own, into the mean of its channels at 16 kHz. Samples are kept in 16
bits, as nearly all files have them, so the features of a document are a function of its cached numbers.

The features are the log-mel spectrogram of Whisper (Radford et al. 2022, section 2.2): 80 or 128 triangular bands on
Slaney's mel scale (Slaney 1998) of frames of 25 ms, one each 10 ms.
"""

import io
from functools import lru_cache

import numpy as np

from halcyon.data.named_files import BadFile
from halcyon.host.errors import BadConfiguration
from halcyon_api.package import missing

RATE = 16_000
"""Samples of a second."""
FRAME, HOP = 400, 160
"""Samples of a frame, and from one frame to the next."""
SAMPLE = np.dtype("<i2")
FULL = 2**15
"""A sample of this size is 1."""

MOST_BYTES = 64 * 2**20
"""Largest file."""
MOST_CHANNELS = 8
RATES = (4_000, 192_000)
"""Least and greatest samples of a second in a file."""


def decoded(content: bytes, seconds: float) -> np.ndarray:
    """The samples of a file: int16 [samples].

    Args:
        content: The bytes of a wav, flac, ogg or mp3 file.
        seconds: The longest sound.

    Raises:
        BadFile: It is no such file, or above a limit. Never more than the limit is decoded.
        BadConfiguration: The package `soundfile` is not there.
    """
    try:
        import soundfile
    except ImportError:
        raise BadConfiguration(f"sounds need a decoder: {missing('soundfile')}") from None
    if len(content) > MOST_BYTES:
        raise BadFile(f"has {len(content):,} bytes; the limit is {MOST_BYTES:,}", "cut it into shorter sounds")
    try:
        with soundfile.SoundFile(io.BytesIO(content)) as file:
            rate, channels = file.samplerate, file.channels
            if not RATES[0] <= rate <= RATES[1]:
                raise BadFile(
                    f"has {rate:,} samples a second; the limits are {RATES[0]:,} and {RATES[1]:,}", "resample it"
                )
            if channels > MOST_CHANNELS:
                raise BadFile(f"has {channels} channels; the limit is {MOST_CHANNELS}", "mix it down")
            most = int(seconds * rate)
            found = file.read(most + 1, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, TypeError, RuntimeError) as error:
        why = str(getattr(error, "error_string", error)).rstrip(".")
        raise BadFile(f"is no sound that can be read ({why})", "give a wav, flac, ogg or mp3 file") from None
    if len(found) > most:
        raise BadFile(f"is longer than {seconds:g} s, the limit", "cut it into shorter sounds")
    if not len(found) or not np.isfinite(found).all():
        raise BadFile("has no samples, or some that are no numbers", "leave it out")
    return np.clip(np.rint(_resampled(found.mean(1), rate) * FULL), -FULL, FULL - 1).astype(SAMPLE)


def _resampled(samples: np.ndarray, rate: int) -> np.ndarray:
    if rate == RATE:
        return samples
    from scipy.signal import resample_poly

    return resample_poly(samples.astype(np.float64), RATE, rate)


def log_mel(samples: np.ndarray, bands: int, frames: int) -> np.ndarray:
    """The features of a sound: float32 [frames, bands]. Silence follows a shorter sound, and a longer one is cut.

    Args:
        samples: int16 [samples].
        bands: Features of a frame.
        frames: Number of frames.
    """
    whole = np.zeros(frames * HOP)
    whole[: len(samples)] = samples[: len(whole)] / FULL
    padded = np.pad(whole, FRAME // 2, mode="reflect")
    cut = np.lib.stride_tricks.sliding_window_view(padded, FRAME)[:-1:HOP][:frames]
    powers = np.abs(np.fft.rfft(cut * _window())).astype(np.float64) ** 2
    logs = np.log10(np.maximum(powers @ _bands(bands), 1e-10))
    return ((np.maximum(logs, logs.max() - 8.0) + 4.0) / 4.0).astype(np.float32)


@lru_cache
def _window() -> np.ndarray:
    return np.hanning(FRAME + 1)[:-1]


@lru_cache
def _bands(count: int) -> np.ndarray:
    """The weight of each frequency in each band: [frequencies, bands]. A band has an area of 1."""
    edges = _hertz(np.linspace(0.0, _mel(RATE / 2), count + 2))
    found, widths = np.linspace(0, RATE / 2, FRAME // 2 + 1)[:, None], np.diff(edges)
    rising, falling = (found - edges[:-2]) / widths[:-1], (edges[2:] - found) / widths[1:]
    return np.maximum(0.0, np.minimum(rising, falling)) * (2.0 / (edges[2:] - edges[:-2]))


_LINEAR = 200 / 3
"""Hertz of a mel below 1000 Hz, which are 15 mels; above, 27 mels are a factor of 6.4."""


def _mel(hertz: float) -> float:
    return 15.0 + np.log(hertz / 1000) * 27.0 / np.log(6.4)


def _hertz(mels: np.ndarray) -> np.ndarray:
    return np.where(mels < 15.0, mels * _LINEAR, 1000.0 * np.exp(np.log(6.4) / 27.0 * (mels - 15.0)))
