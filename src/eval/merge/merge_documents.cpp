// Summaries and sidecars of documents that were measured in several runs.
#include <algorithm>
#include <limits>
#include <memory>

#include <ATen/ATen.h>

#include "src/eval/merge/parts.h"
#include "src/eval/ppl_by_length/ppl_summary.h"
#include "src/eval/ppl_by_length/token_losses.h"
#include "src/eval/retention/retention_arrays.h"
#include "src/eval/retention/retention_summary.h"
#include "src/eval/state_stats/state_arrays.h"
#include "src/eval/state_stats/state_summary.h"
#include "stuffed/core/error.h"
#include "stuffed/io/record_fields.h"
#include "stuffed/io/tensor_file.h"

namespace stuffed::eval::merging {

namespace {

using io::json;

/// Sidecars of the parts, opened once each.
class Arrays {
 public:
  const io::TensorFile& of(const Part& part, const std::string& name) {
    auto& file = files_[&part];
    if (!file)
      file = std::make_unique<io::TensorFile>(io::TensorFile::open(arrays_of(part, name)));
    return *file;
  }
  const io::TensorFile& of(const Part& part) {
    const json name = part.config("arrays");
    return of(part, name.is_string() ? name.get<std::string>() : "");
  }

 private:
  std::map<const Part*, std::unique_ptr<io::TensorFile>> files_;
};

/// Row `row` of a tensor [documents,...].
Tensor row_of(const io::TensorFile& file, const std::string& name, int64_t row) {
  const Tensor all = file.load(name);
  check(all.dim() > 0 && row < all.size(0), Error::Kind::Input,
        "the tensor '{}' of the arrays has no row {}", name, row);
  return all[row].contiguous();
}

/// impl, dtype, state_dtype, segment_tokens: what every record repeats.
json run_of(const Places& places) {
  const Part& part = *places.begin()->second.part;
  const json& record = part.records.at(fmt::format("document={}", places.begin()->first));
  json run;
  for (const char* field : {"impl", "segment_tokens", "dtype", "state_dtype"})
    run[field] = record.at(field);
  return run;
}

std::optional<int64_t> train_len_of(const Part& part) {
  const json length = part.config("train_len_tokens");
  return length.is_number() ? std::optional(length.get<int64_t>()) : std::nullopt;
}

std::vector<int64_t> targets_of(const Places& places) {
  std::vector<int64_t> targets;
  for (const auto& [number, place] : places)
    targets.push_back(io::read_integer(place.part->records.at(fmt::format("document={}", number)),
                                       "targets", 1, io::kMostTokens));
  return targets;
}

void append_summary(const Places& places, json summary, io::Journal& journal) {
  finish_summary(places, summary);
  if (!journal.done("summary"))
    journal.append("summary", summary);
}

/// The first stuffed of every row of these tensors; what documents share is copied.
bool is_shared(const std::string& name) {
  return name == "positions" || name == "layers" || name == "heads" ||
         name == "histogram.positions" || name == "variance_ratio" || name == "limits" ||
         name.starts_with("conv.");
}

/// A document's arrays without the padding that others made longer samples need.
NamedTensors cut_arrays(const io::TensorFile& file, int64_t row, int64_t samples) {
  NamedTensors arrays;
  for (const auto& [name, entry] : file.entries()) {
    if (is_shared(name))
      continue;
    Tensor array = row_of(file, name, row);
    const bool by_sample = !name.starts_with("histogram.") && name != "alpha.sequence_mean";
    if (by_sample)
      array = array.narrow(0, 0, samples).clone();
    arrays.emplace_back(name, array);
  }
  return arrays;
}

std::vector<int64_t> numbers_in(const io::TensorFile& file, const std::string& name) {
  const Tensor all = file.load(name).to(at::kLong).contiguous();
  return {all.const_data_ptr<int64_t>(), all.const_data_ptr<int64_t>() + all.numel()};
}

}  // namespace

void merge_losses(const Places& places,
                  io::Journal& journal,
                  const std::filesystem::path& sidecar) {
  const Part& first = *places.begin()->second.part;
  TokenLosses losses(sidecar, journal);
  losses.keep(0);
  Arrays arrays;
  int64_t floats = 0;
  const std::vector<int64_t> targets = targets_of(places);
  size_t index = 0;
  for (const auto& [number, place] : places) {
    const int64_t count = targets[index++];
    if (!sidecar.empty()) {
      const json name = place.part->header.provenance.value("per_token", json());
      const Tensor row =
          row_of(arrays.of(*place.part, name.is_string() ? name.get<std::string>() : ""), "nll",
                 place.row);
      losses.write(std::span(row.const_data_ptr<float>(), static_cast<size_t>(count)), floats);
    }
    floats += count;
  }
  losses.sync();
  PplByLengthOptions how;
  how.bucket = first.config("bucket_tokens");
  how.train_len = train_len_of(first);
  how.run = run_of(places);
  append_summary(places, summarise(journal, how), journal);
  losses.finish(targets);
  journal.finish();
  losses.remove_partial();
}

void merge_state_stats(const Places& places,
                       io::Journal& journal,
                       const std::filesystem::path& sidecar) {
  const Part& first = *places.begin()->second.part;
  StateArrays merged(sidecar, journal);
  Arrays arrays;
  int64_t index = 0;
  const io::TensorFile* longest = nullptr;
  for (const auto& [number, place] : places) {
    const io::TensorFile& file = arrays.of(*place.part);
    const json& record = place.part->records.at(fmt::format("document={}", number));
    merged.write_document(index++, cut_arrays(file, place.row, record.at("samples")));
    if (!longest || file.load("positions").numel() > longest->load("positions").numel())
      longest = &file;
  }
  const std::vector<int64_t> layers = numbers_in(*longest, "layers"),
                             heads = numbers_in(*longest, "heads");
  StateStatsOptions how;
  how.stride = first.config("stride_tokens");
  how.train_len = train_len_of(first);
  how.top = first.config("top");
  const bool is_whole = first.config("layers") == "all" && first.config("heads") == "all";
  const StateSummary said = summarise_states(merged, index, layers, heads, is_whole, how);
  json summary = run_of(places);
  summary.update(said.record);
  summary["stride_tokens"] = how.stride;
  summary["train_len_tokens"] = first.config("train_len_tokens");
  summary["layers"] = layers.size();
  summary["heads"] = heads.size();
  append_summary(places, summary, journal);
  NamedTensors more;
  for (const auto& [name, entry] : longest->entries())
    if (is_shared(name) && name != "variance_ratio" && name != "limits")
      more.emplace_back(name, longest->load(name));
  more.insert(more.end(), said.arrays.begin(), said.arrays.end());
  std::map<std::string, std::string> metadata(longest->metadata().begin(),
                                              longest->metadata().end());
  merged.finish(index, more, metadata);
  journal.finish();
  merged.remove_partial();
}

void merge_retention(const Places& places,
                     io::Journal& journal,
                     const std::filesystem::path& sidecar) {
  RetentionArrays merged(sidecar, journal);
  Arrays arrays;
  int64_t index = 0;
  for (const auto& [number, place] : places) {
    if (sidecar.empty())
      break;
    RetentionArrays::Named of_document;
    const io::TensorFile& file = arrays.of(*place.part);
    for (const auto& [name, entry] : file.entries())
      if (!name.ends_with("/median"))
        of_document[name] = row_of(file, name, place.row);
    merged.save(index++, std::move(of_document));
  }
  RetentionArrays::Named medians;
  for (const std::string name : {"half_life_tokens", "mitigated/half_life_tokens"})
    if (const Tensor median = index > 0 ? median_half_life(merged, index, name) : Tensor();
        median.defined())
      medians[name + "/median"] = median;
  RetentionOptions how;
  how.run = run_of(places);
  append_summary(places, summarise_retention(journal, medians, how), journal);
  merged.finish(index, medians);
  journal.finish();
  merged.remove_partial();
}

}  // namespace stuffed::eval::merging
