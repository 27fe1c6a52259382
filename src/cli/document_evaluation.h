// What the commands that evaluate a model over documents have in common: which text they read, where
// the results go, everything that is opened before the first token, and how they end.
#pragma once
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "src/cli/app.h"
#include "src/cli/options.h"
#include "stuffed/io/journal.h"
#include "stuffed/io/token_source.h"
#include "stuffed/recurrence/inner_observer.h"

namespace stuffed::cli {

struct DataOptions {
  io::SourceOptions source;  // all but when_short
  bool skip_short = false, pack = false;
};

void add_data_options(CLI::App& app, DataOptions& options);

/// The model's tokenizer, or null where none is needed: for --tokens without --tokenizer.
/// Errors  Usage for options that exclude each other; Input if there is no tokenizer
std::shared_ptr<const io::Tokenizer> tokenizer_for(const DataOptions& data,
                                                   const ModelOptions& model);

/// Errors  Input if the tokenizer belongs to another model; as TokenSource::open
io::TokenSource open_source(const DataOptions& data,
                            const std::shared_ptr<const io::Tokenizer>& tokenizer,
                            const RecurrentLM& model);

/// Documents of one length in a row.
struct SideBySide {
  int64_t documents = 1;
  int64_t targets = 0;  // of the longest document met; 0: none was read
};

/// Which documents can be fed side by side: the most there are in a row, counted up to `most`; with
/// --part, in the first part. Reads the source once more, as far as that takes.
/// Errors  Usage if it can be read only once; as open_source()
SideBySide documents_side_by_side(const DataOptions& data,
                                  const std::shared_ptr<const io::Tokenizer>& tokenizer,
                                  const RecurrentLM& model,
                                  int64_t most);

/// The batch size that an unfinished or finished run of `schema` recorded in `output`, which --batch-size
/// auto then takes; nothing if nothing was measured there yet.
std::optional<int64_t> recorded_batch_size(const std::string& output, std::string_view schema);

struct EvaluationOptions {
  ModelOptions model;
  DataOptions data;
  bool overwrite = false, fail_nonfinite = false;
  double save_every = 600;  // seconds
  std::string output;
};

/// -o; a command's own outputs follow it in the help, then add_rerun_options().
void add_output_option(CLI::App& app, EvaluationOptions& options);
/// --overwrite, --save-every and --fail-nonfinite; `what` may be not finite: "a loss".
void add_rerun_options(CLI::App& app, EvaluationOptions& options, const std::string& what);

/// What runs, and what its results say of it.
struct Evaluation {
  std::shared_ptr<const io::Tokenizer> tokenizer;  // null: none is needed
  std::shared_ptr<const RecurrentLM> model;
  std::shared_ptr<const Recurrence> rule;
  io::TokenSource source;
  io::json config;        // for the header: describe() and the data; the command adds its own
  io::json every_record;  // impl, dtype, state_dtype, segment_tokens
  io::json provenance = io::json::object();  // what the header says beyond io::provenance()
  std::function<void(const io::json&)> check_record = {};  // of a journal: see JournalHeader
};

/// `observer`, if there is one, is told of every update of the rule, and `inner_observer` of what
/// its mitigations make of it; they are not owned.
/// Errors  Usage for options that exclude each other or a stream too long for its mitigations;
///         Input; Unsupported: see the functions of open_model.h, tokenizer_for and open_source
Evaluation open_evaluation(const EvaluationOptions& options,
                           Context& context,
                           Observer* observer = nullptr,
                           InnerObserver* inner_observer = nullptr);

/// What open_journal() needs to know besides.
struct JournalKind {
  std::string_view schema;
  int version = 1;
  std::filesystem::path sidecar;  // "" if there is none
};

/// Tokens that are fed at a time, but for the last of a document.
int64_t segment_of(const EvaluationOptions& options);

/// Begins or resumes the journal, once it is known that its sidecar is no one else's.
/// `evaluation.config` must be complete.
/// Errors  as Journal::open and io::check_sidecar
io::Journal open_journal(const EvaluationOptions& options,
                         const Context& context,
                         const Evaluation& evaluation,
                         const JournalKind& kind);

/// Prints `table` where it does not mix with the results.
/// Errors  NonFinite saying `what` ("the loss is not finite"), if so by the summary and asked for
void finish(const EvaluationOptions& options,
            const io::json& summary,
            const std::string& table,
            std::string_view what);

/// The journal and its sidecar (given by `flag`, or "") take the place of nothing that the run
/// reads, nor of each other.
/// Errors  as OutputGuard::writes
void check_outputs(const EvaluationOptions& options,
                   std::string_view flag,
                   const std::filesystem::path& sidecar);

/// The results' name with another end: a final .jsonl is replaced, to anything else it is appended.
std::filesystem::path beside(const std::string& output, std::string_view end);

/// The arrays' file beside the results, as a journal that is there already has named it.
/// Errors  Usage if the results have the name of arrays themselves
std::filesystem::path arrays_beside(const std::string& output);

/// As the journal names its arrays: relative to its own folder, so that both can be moved together.
/// Null if there are none ("").
io::json name_in_journal(const std::filesystem::path& arrays, const std::string& output);

/// For a header: null if the size was not given (0).
io::json size_or_null(int64_t size);

}  // namespace stuffed::cli
