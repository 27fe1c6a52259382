// The losses of a ppl-by-length run as the published code's eval_per_token.py keeps them.
#include <algorithm>

#include <ATen/ATen.h>

#include "export_files.h"
#include "export_folder.h"
#include "stuffed/core/error.h"
#include "stuffed/eval/check_records.h"
#include "stuffed/io/atomic_file.h"
#include "stuffed/io/output_guard.h"
#include "stuffed/io/record_fields.h"
#include "stuffed/io/tensor_file.h"
#include "stuffed/io/torch_file.h"

namespace stuffed::eval {

namespace {

namespace fs = std::filesystem;

/// What followed `flag` on the command line that made the run; empty if it was not there.
std::string argument_of(const io::json& provenance, const std::string& flag) {
  const io::json line =
      provenance.is_object() ? provenance.value("command_line", io::json()) : io::json();
  for (size_t i = 0; line.is_array() && i < line.size(); ++i) {
    const std::string word = line[i].is_string() ? line[i].get<std::string>() : "";
    if (word == flag && i + 1 < line.size() && line[i + 1].is_string())
      return line[i + 1];
    if (word.starts_with(flag + "="))
      return word.substr(flag.size() + 1);
  }
  return {};
}

/// What the header says of a run; texts are empty where it does not.
struct Asked {
  std::string family, dtype, sha256;
  std::string prompt;     // the built-in text's name
  std::string model;      // as its command named it
  std::string per_token;  // the losses' file, seen from the journal's folder
  bool keeps_losses = false;
  int64_t bucket_tokens = 0;
  io::json train_len_tokens;  // null: unknown
};

std::string text_or_nothing(const io::json& fields, const char* field) {
  return fields.is_object() && fields.contains(field) ? io::read_text(fields, field) : "";
}

/// A name from the journal as that of one folder.
/// Errors  Input
std::string as_folder(const std::string& name, const char* otherwise) {
  std::string folder;
  for (const char c : name)
    folder += c == '/' ? "--" : std::string(1, c);
  check(folder.find('\0') == folder.npos, Error::Kind::Input, "{:?} is no name of a file", name);
  return folder.find_first_not_of('.') == folder.npos ? otherwise : folder;
}

/// "newlines" of a prompt; "" of files, whose documents have names of their own.
std::string prompt_name(const io::json& data) {
  if (text_or_nothing(data, "kind") != "prompt")
    return "";
  return as_folder(text_or_nothing(data, "name"), "prompt");
}

/// "war" of war.txt, "books" of books.jsonl:3.
std::string file_name(const io::json& document) {
  const std::string name = text_or_nothing(document, "name");
  return as_folder(name.substr(0, name.find('.')), "text");
}

/// Errors  as io::read_integer()
Asked read_header(const ReadJournal& journal) {
  const io::json &config = journal.end.header.config, &provenance = journal.end.header.provenance;
  Asked asked;
  asked.family = io::read_text(config.at("model"), "family");
  asked.sha256 = text_or_nothing(config.at("model"), "sha256");
  asked.dtype = io::read_text(config, "dtype");
  asked.bucket_tokens = io::read_integer(config, "bucket_tokens", 1);
  asked.keeps_losses = config.contains("per_token") && io::read_flag(config, "per_token");
  if (config.contains("train_len_tokens") && !config.at("train_len_tokens").is_null())
    asked.train_len_tokens = io::read_integer(config, "train_len_tokens", 1);
  asked.per_token = text_or_nothing(provenance, "per_token");
  asked.model = text_or_nothing(provenance, "model");
  if (asked.model.empty())
    asked.model = argument_of(provenance, "--model");
  while (asked.model.size() > 1 && asked.model.ends_with('/'))
    asked.model.pop_back();
  asked.prompt = prompt_name(config.at("data"));
  return asked;
}

/// The sidecar: as given, as the journal names it (from its own folder), or as the command did.
fs::path losses_path(const ReadJournal& journal, const Asked& asked, const PaperOptions& options) {
  if (!options.per_token.empty())
    return options.per_token;
  check(asked.keeps_losses, Error::Kind::Input,
        "{}: was made without --per-token, so its losses are kept by bucket alone; run "
        "ppl-by-length again with it",
        journal.path.string());
  const fs::path folder = journal.path.parent_path();
  if (!asked.per_token.empty())
    return folder / asked.per_token;
  const fs::path named = argument_of(journal.end.header.provenance, "--per-token");
  std::error_code ignored;
  const fs::path beside = folder / named.filename();
  const fs::path found = fs::exists(named, ignored) ? named : beside;
  check(!named.empty() && fs::exists(found, ignored), Error::Kind::Input,
        "{}: does not say where its losses are; name their file with --per-token",
        journal.path.string());
  return found;
}

/// The documents of a journal, in order.
struct Documents {
  std::vector<int64_t> targets;
  std::string text;  // the first one's name, as a folder's
};

Documents read_documents(const ReadJournal& journal, const Asked& asked) {
  std::map<int64_t, std::pair<int64_t, std::string>> by_number;  // --skip-bad-lines leaves gaps
  for (const auto& [key, record] : journal.records)
    explained(journal, fmt::format("the record '{}'", key), [&] {
      check_ppl_record(record, asked.bucket_tokens);
      if (const int64_t number = document_number(record); number >= 0)
        by_number[number] = {io::read_integer(record, "targets", 1), file_name(record)};
    });
  Documents documents{.targets = {}, .text = asked.prompt};
  for (const auto& [number, document] : by_number) {
    documents.targets.push_back(document.first);
    if (documents.text.empty())
      documents.text = document.second;
  }
  return documents;
}

/// nll [documents,N] f32, checked against the journal's documents.
Tensor read_losses(const ReadJournal& journal,
                   const std::vector<int64_t>& targets,
                   const fs::path& path,
                   PaperFiles& files) {
  check(journal.end.finished && !targets.empty(), Error::Kind::Input,
        "{}: is not finished, so its losses are not complete; run its command again to resume it",
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

/// As the published code names a run: the model's path, its separators written as two dashes.
std::string run_name(const Asked& asked) {
  const bool is_named = !asked.model.empty();
  return as_folder(is_named ? asked.model : asked.family + "-" + asked.sha256.substr(0, 12),
                   "model");
}

io::json args_of(const Asked& asked, const std::string& text, int64_t targets, int64_t chunk) {
  const io::json& train_len = asked.train_len_tokens;
  return {
      {"model_name", asked.family},
      {"pretrained_path", asked.model},
      {"prompt_name", text},
      {"max_len", (targets + 1) / 1024},
      {"chunk_size", chunk / 1024},
      {"bucket_size", asked.bucket_tokens},
      {"train_len", train_len.is_null() ? io::json() : io::json(train_len.get<int64_t>() / 1024)},
      {"dtype", asked.dtype}};
}

}  // namespace

void export_losses(const ReadJournal& journal,
                   const fs::path& folder,
                   const PaperOptions& options,
                   PaperFiles& files) {
  Asked asked;
  std::string run;
  explained(journal, "line 1", [&] {
    asked = read_header(journal);
    run = run_name(asked);
  });
  const fs::path losses = losses_path(journal, asked, options);
  const Documents documents = read_documents(journal, asked);
  Tensor nll = read_losses(journal, documents.targets, losses, files);
  const int64_t targets = nll.size(1), chunk = options.drop_chunk_targets;
  if (chunk > 0)
    nll = without_chunk_targets(nll, chunk);
  const fs::path place = folder / "result_per_token" / run / documents.text;
  check_folder(place, options.overwrite);
  make_folder(place);
  const fs::path tensor = place / "per_token_loss.pt";
  io::OutputGuard guard;
  guard.reads("RESULTS", journal.path);
  guard.reads("--per-token", losses);
  guard.writes("-o", tensor);
  write_export(journal, place / "args.json",
               args_of(asked, documents.text, targets, chunk).dump(4) + "\n", options, files);
  io::write_torch_tensor(tensor, nll);
  files.written.push_back(tensor);
}

}  // namespace stuffed::eval
