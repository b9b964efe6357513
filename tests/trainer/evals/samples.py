"""Small files of each task in the shape that it is published in; the contents are made up."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

ARC_HUB = [
    {
        "id": "1",
        "question": "What melts in the sun?",
        "choices": {"text": ["ice", "rock"], "label": ["A", "B"]},
        "answerKey": "A",
    },
    {
        "id": "2",
        "question": "Which is a metal?",
        "choices": {"text": ["wood", "air", "iron"], "label": ["1", "2", "3"]},
        "answerKey": "3",
    },
]
ARC_AUTHORS = [
    {
        "id": "1",
        "question": {
            "stem": "What melts in the sun?",
            "choices": [{"text": "ice", "label": "A"}, {"text": "rock", "label": "B"}],
        },
        "answerKey": "A",
    }
]
MMLU_HUB = [
    {"question": "2 + 2 = ?", "subject": "elementary_mathematics", "choices": ["3", "4", "5", "6"], "answer": 1}
]
GSM8K = [
    {
        "question": "A pen costs $2. What do 6 pens and a $1,000 desk cost?",
        "answer": "The pens cost 2*6=$<<2*6=12>>12.\nAll costs 12+1000=$<<12+1000=1012>>1012.\n#### 1,012",
    }
]
HUMAN_EVAL = [
    {
        "task_id": "Sample/0",
        "prompt": 'from typing import List\n\n\ndef total(numbers: List[int]) -> int:\n    """ '
        'Add the numbers.\n    """\n',
        "canonical_solution": "    return sum(numbers)\n",
        "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate([1, 2]) == 3\n    assert "
        "candidate([]) == 0\n",
        "entry_point": "total",
    }
]
SMOLTALK = [
    {
        "messages": [
            {"role": "system", "content": "Be short."},
            {"role": "user", "content": "Name a colour."},
            {"role": "assistant", "content": "Blue."},
        ]
    }
]


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    text = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.name.endswith(".gz") else text)
    return path


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def core_bundle(folder: Path, rows: int = 6) -> Path:
    """A bundle with one task of each kind."""
    data = folder / "eval_data"
    data.mkdir(parents=True)
    choices = [
        {"query": f"Question {number}: is it", "choices": ["yes", "no", "no never"], "gold": number % 3}
        for number in range(rows)
    ]
    schema = [
        {"context_options": [f"The cat {number}", f"The dogs {number}"], "continuation": "sleeps here", "gold": 0}
        for number in range(rows)
    ]
    language = [{"context": f" Numbers: {number} {number} ", "continuation": f"{number}"} for number in range(rows)]
    for name, found in (("choice", choices), ("schema", schema), ("language", language)):
        lines(data / f"{name}.jsonl", found)
    (folder / "core.yaml").write_text(
        "icl_tasks:\n"
        "- {label: choice, dataset_uri: choice.jsonl, num_fewshot: [2], icl_task_type: multiple_choice, "
        "continuation_delimiter: ' '}\n"
        "- {label: schema, dataset_uri: schema.jsonl, num_fewshot: [0], icl_task_type: schema}\n"
        "- {label: language, dataset_uri: language.jsonl, num_fewshot: [3], icl_task_type: language_modeling}\n"
    )
    (folder / "eval_meta_data.csv").write_text(
        "Eval Task,Task Category,Task Type,#shots,#datapoints,Random baseline,Centered Metric?,Description\n"
        'choice,reading,multiple choice,2,6,33.3,,"made, up"\n'
        "schema,reading,schema,0,6,50,,x\nlanguage,symbols,language modeling,3,6,0,,x\n"
    )
    return folder
