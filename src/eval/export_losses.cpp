// The losses of a ppl-by-length run as the published code's eval_per_token.py keeps them.
#include <algorithm>

#include <ATen/ATen.h>

#include "export_files.h"
#include "stuffed/core/error.h"
#include "stuffed/io/atomic_file.h"
#include "stuffed/io/output_guard.h"
#include "stuffed/io/tensor_file.h"
#include "stuffed/io/torch_file.h"

namespace stuffed::eval {

namespace {

namespace fs = std::filesystem;

/// What followed `flag` on the command line that made the run; empty if it was not there.
std::string argument_of(const io::json& provenance, const std::string& flag) {
  const io::json line = provenance.value("command_line", io::json::array());
  for (size_t i = 0; line.is_array() && i < line.size(); ++i) {
    const std::string word = line[i].is_string() ? line[i].get<std::string>() : "";
    if (word == flag && i + 1 < line.size() && line[i + 1].is_string())
      return line[i + 1];
    if (word.starts_with(flag + "="))
      return word.substr(flag.size() + 1);
  }
  return {};
}

/// The sidecar: as given, as the journal names it (from its own folder), or as the command did.
fs::path losses_path(const ReadJournal& journal, const PaperOptions& options) {
  if (!options.per_token.empty())
    return options.per_token;
  const io::RunHeader& header = journal.end.header;
  check(header.config.value("per_token", false), Error::Kind::Input,
        "{}: was made without --per-token, so its losses are kept by bucket alone; run "
        "ppl-by-length again with it",
        journal.path.string());
  const fs::path folder = journal.path.parent_path();
  if (const io::json name = header.provenance.value("per_token", io::json()); name.is_string())
    return folder / name.get<std::string>();
  const fs::path named = argument_of(header.provenance, "--per-token");
  std::error_code ignored;
  const fs::path beside = folder / named.filename();
  const fs::path found = fs::exists(named, ignored) ? named : beside;
  check(!named.empty() && fs::exists(found, ignored), Error::Kind::Input,
        "{}: does not say where its losses are; name their file by --per-token",
        journal.path.string());
  return found;
}

/// Targets of the documents the journal holds, in order.
std::vector<int64_t> targets_of(const ReadJournal& journal) {
  std::vector<int64_t> targets;
  for (int64_t i = 0;; ++i) {
    const auto record = journal.records.find(fmt::format("document={}", i));
    if (record == journal.records.end())
      return targets;
    targets.push_back(record->second.at("targets"));
  }
}

/// nll [documents,N] f32, checked against the journal's documents.
Tensor read_losses(const ReadJournal& journal, const fs::path& path, PaperFiles& files) {
  const std::vector<int64_t> targets = targets_of(journal);
  check(journal.end.finished && !targets.empty(), Error::Kind::Input,
        "{}: is not finished, so its losses are not complete; the run's command goes on with it",
        journal.path.string());
  const io::TensorFile file = io::TensorFile::open(path);
  check(file.has("nll"), Error::Kind::Input,
        "{}: has no tensor 'nll'; ppl-by-length --per-token "
        "writes one",
        path.string());
  const Tensor nll = file.load("nll").to(at::kFloat);
  const int64_t documents = static_cast<int64_t>(targets.size());
  const int64_t longest = *std::ranges::max_element(targets);
  check(nll.sizes() == at::IntArrayRef({documents, longest}), Error::Kind::Input,
        "{}: holds losses [{}], but {} has {} documents of up to {} targets; they are another "
        "run's",
        path.string(), fmt::join(nll.sizes(), ", "), journal.path.string(), documents, longest);
  if (*std::ranges::min_element(targets) < longest)
    files.warnings.push_back(fmt::format(
        "{}: documents differ in length: the shorter ones are filled up with NaN", path.string()));
  return nll;
}

/// Without the columns that score the first token of a chunk (token 0 is scored by none).
Tensor without_chunk_targets(const Tensor& nll, int64_t chunk) {
  std::vector<Tensor> parts;
  for (int64_t begin = 0; begin < nll.size(1); begin += chunk)
    parts.push_back(nll.narrow(1, begin, std::min(chunk - 1, nll.size(1) - begin)));
  return at::cat(parts, 1);
}

/// The text's name as a folder: "newlines", "war" of war.txt, "books" of books.jsonl:3.
std::string text_name(const ReadJournal& journal) {
  const io::json& data = journal.end.header.config.at("data");
  if (data.value("kind", "") == "prompt")
    return data.value("name", "prompt");
  const std::string name = journal.records.at("document=0").value("name", "text");
  const std::string stem = name.substr(0, name.find('.'));
  return stem.empty() ? "text" : stem;
}

/// As the published code names a run: the model's path, its separators written as two dashes.
std::string run_name(const ReadJournal& journal, const std::string& model) {
  if (model.empty()) {
    const io::json& config = journal.end.header.config.at("model");
    return config.value("family", "model") + "-" + config.value("sha256", "").substr(0, 12);
  }
  std::string name;
  for (const char c : model)
    name += c == '/' ? "--" : std::string(1, c);
  return name;
}

io::json args_of(const ReadJournal& journal,
                 const std::string& model,
                 int64_t targets,
                 int64_t chunk) {
  const io::json& config = journal.end.header.config;
  const io::json train_len = config.value("train_len_tokens", io::json());
  return {
      {"model_name", config.at("model").at("family")},
      {"pretrained_path", model},
      {"prompt_name", text_name(journal)},
      {"max_len", (targets + 1) / 1024},
      {"chunk_size", chunk / 1024},
      {"bucket_size", config.at("bucket_tokens")},
      {"train_len", train_len.is_number() ? io::json(train_len.get<int64_t>() / 1024) : io::json()},
      {"dtype", config.at("dtype")}};
}

}  // namespace

void export_losses(const ReadJournal& journal,
                   const fs::path& folder,
                   const PaperOptions& options,
                   PaperFiles& files) {
  const fs::path losses = losses_path(journal, options);
  Tensor nll = read_losses(journal, losses, files);
  const int64_t targets = nll.size(1), chunk = options.drop_chunk_targets;
  if (chunk > 0)
    nll = without_chunk_targets(nll, chunk);
  std::string model = journal.end.header.provenance.value("model", std::string());
  if (model.empty())
    model = argument_of(journal.end.header.provenance, "--model");
  while (model.size() > 1 && model.ends_with('/'))
    model.pop_back();
  const fs::path place =
      folder / "result_per_token" / run_name(journal, model) / text_name(journal);
  make_folder(place);
  const fs::path tensor = place / "per_token_loss.pt";
  io::OutputGuard guard;
  guard.reads("RESULTS", journal.path);
  guard.reads("--per-token", losses);
  guard.writes("-o", tensor);
  std::error_code ignored;
  check(options.overwrite || !fs::exists(tensor, ignored), Error::Kind::Output,
        "{}: is there already; give another -o, or --overwrite to replace it", tensor.string());
  write_export(journal, place / "args.json", args_of(journal, model, targets, chunk).dump(4) + "\n",
               options, files);
  io::write_torch_tensor(tensor, nll);
  files.written.push_back(tensor);
}

}  // namespace stuffed::eval
