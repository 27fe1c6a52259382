// What the parts of export_paper() share.
#pragma once
#include <functional>
#include <string_view>

#include "stuffed/eval/export_paper.h"
#include "stuffed/io/journal.h"

namespace stuffed::eval {

/// A journal as it is: the records by key, in the journal's order of keys.
struct ReadJournal {
  std::filesystem::path path;
  io::JournalEnd end;
  std::map<std::string, io::json> records;
};

/// Reads fields of the journal; what is missing, or of another type, is said to be in `what`.
/// Errors  Input
void explained(const ReadJournal& journal,
               std::string_view what,
               const std::function<void()>& read);

/// Writes a text where it replaces neither the journal nor, without `overwrite`, another text.
void write_export(const ReadJournal& journal,
                  const std::filesystem::path& path,
                  const std::string& text,
                  const PaperOptions& options,
                  PaperFiles& files);

/// The per-token losses and their args.json; see export_paper().
void export_losses(const ReadJournal& journal,
                   const std::filesystem::path& folder,
                   const PaperOptions& options,
                   PaperFiles& files);

}  // namespace stuffed::eval
