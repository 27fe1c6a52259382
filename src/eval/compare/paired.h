// Documents of two runs, paired by what they say.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "src/eval/compare/side.h"
#include "stuffed/core/error.h"

namespace stuffed::eval::comparing {

/// What identifies a document: the hash of its tokens, or in older journals its number.
struct DocumentName {
  int64_t number = 0, targets = 0;
  std::string hash, name;
};

/// Errors  Input for fields that are missing
DocumentName document_name(const io::json& record);

/// For each document of A the index of B's of the same tokens.
/// Errors  Input if there is none, or if B has more
std::vector<size_t> pair_documents(const Side& a,
                                   const std::vector<DocumentName>& of_a,
                                   const Side& b,
                                   const std::vector<DocumentName>& of_b);

template <class Document>
using Pairs = std::vector<std::pair<Document, Document>>;

/// Reads the documents of both sides with `read`, which gives one with a member `name`; other
/// records go to `on_other` with 0 for A, 1 for B.
template <class Document, class Read, class OnOther>
Pairs<Document> read_pairs(const Side& a,
                           const Side& b,
                           const Read& read,
                           const OnOther& on_other) {
  std::vector<Document> documents[2];
  std::vector<DocumentName> names[2];
  const Side* const sides[2] = {&a, &b};
  for (int i = 0; i < 2; ++i) {
    sides[i]->each([&](const io::json& record) {
      if (!record.at("key").get<std::string>().starts_with("document="))
        return on_other(i, record);
      documents[i].push_back(read(*sides[i], record));
      names[i].push_back(documents[i].back().name);
    });
    check(!documents[i].empty(), Error::Kind::Input, "{}: holds no document",
          sides[i]->path.string());
  }
  const std::vector<size_t> of_b = pair_documents(a, names[0], b, names[1]);
  Pairs<Document> pairs;
  for (size_t i = 0; i < of_b.size(); ++i)
    pairs.emplace_back(std::move(documents[0][i]), std::move(documents[1][of_b[i]]));
  return pairs;
}

/// A row of means over documents, with its interval.
ComparedValue row_of_means(const std::string& metric,
                           const std::vector<double>& a,
                           const std::vector<double>& b);

/// The metrics of a mean loss that rose as `row` says.
void add_mean_loss(const ComparedValue& row, ResultComparison& out);

}  // namespace stuffed::eval::comparing
