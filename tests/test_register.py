"""Where the package is installed, its own code loads a bundle, and nothing of the bundle is run."""

import subprocess
import sys

CODE = """
import sys
import omnisent
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline

omnisent.register()
omnisent.register()  # a second time changes nothing
bundle, clip = sys.argv[1], {"text": "It was good."}
model, processor = AutoModel.from_pretrained(bundle), AutoProcessor.from_pretrained(bundle)
print(model(**processor([clip], return_tensors="pt")).scores.item())
print(pipeline("multimodal-sentiment", model=bundle)(clip)["score"])
print(type(AutoConfig.from_pretrained(bundle)).__module__)
print([name for name in sys.modules if name.startswith("transformers_modules")])
"""


def test_registered_classes_load_a_bundle_without_remote_code(model, processor, tmp_path):
    bundle = tmp_path / "bundle"
    model.save_pretrained(bundle)
    processor.save_pretrained(bundle)
    done = subprocess.run([sys.executable, "-c", CODE, str(bundle)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    score, same, module, remote = done.stdout.splitlines()
    assert score == same
    assert float(score) == model(**processor([{"text": "It was good."}])).scores.item()
    assert (module, remote) == ("omnisent.configuration_omnisent", "[]")
